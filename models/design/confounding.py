"""Confounded assignment: a logistic propensity of a confounder, set by its AUC; and how the confounder is made.

c ~ N(0, 1), P(treated | c) = π(c) = 1 / (1 + exp(-(a + γ·c))). a and γ are such that the mean of π is the share of the
treated and AUC = P(c of a treated subject > c of an untreated one) is the designed one, both by quadrature over c.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.design.normals import LinkedNormal

FloatArray = NDArray[np.float64]

_GRID = np.linspace(-9.0, 9.0, 3601)  # the trapezoidal rule is exact to rounding for smooth functions times a Gaussian
_WEIGHTS = np.exp(-0.5 * _GRID**2) / np.exp(-0.5 * _GRID**2).sum()
STEEPEST = 30.0  # γ: beyond it the arms do not overlap


@dataclass(frozen=True)
class Propensity:
    """P(treated | c) = logistic(intercept + slope·c)."""

    intercept: float
    slope: float

    def __call__(self, confounder: ArrayLike) -> FloatArray:
        """Propensities of confounders (n,)."""
        return np.asarray(expit(self.intercept + self.slope * np.asarray(confounder, np.float64)))

    @property
    def auc(self) -> float:
        """AUC of the propensity for the arm."""
        return _auc(self(_GRID))

    @property
    def effective_share(self) -> float:
        """Effective sample size of inverse propensity weights, as a share of the treated and the untreated together."""
        half = self.slope**2 / 2  # E[1 / π] = 1 + E[exp(-(a + γ·c))]
        treated, untreated = 1 + math.exp(half - self.intercept), 1 + math.exp(half + self.intercept)
        return 1 / treated + 1 / untreated


@lru_cache(maxsize=64)
def design_propensity(auc: float, share: float) -> Propensity:
    """The propensity with an AUC and a share of treated subjects.

    Raises:
        ConfigError: an AUC that no overlap of the arms is left at; says which can be had.
    """

    def intercept(slope: float) -> float:
        return float(brentq(lambda a: _WEIGHTS @ expit(a + slope * _GRID) - share, -400.0, 400.0, xtol=1e-12))

    def reached(slope: float) -> float:
        return _auc(expit(intercept(slope) + slope * _GRID))

    if auc == 0.5:
        return Propensity(round(math.log(share / (1 - share)), 10), 0.0)
    highest = reached(STEEPEST)
    if not 0.5 < auc < highest:
        raise ConfigError(
            "impossible AUC of the propensity", where="study.assignment.auc", got=auc,
            expected=f"0.5 (randomised) to {highest:.4f} (the arms hardly overlap) with {100 * share:g} % treated",
        )  # fmt: skip
    slope = float(brentq(lambda s: reached(s) - auc, 0.0, STEEPEST, xtol=1e-12))
    return Propensity(round(intercept(slope), 10), round(slope, 10))  # rounded: the same on every machine


def _auc(treated: FloatArray) -> float:
    case, control = _WEIGHTS * treated, _WEIGHTS * (1 - treated)
    below = np.cumsum(control) - 0.5 * control  # a grid point against itself is a tie
    return float(case @ below / (case.sum() * control.sum()))


def confounder(
    image_share: float, correlation: float, prognosis: LinkedNormal | None, direction: FloatArray, effects: int
) -> LinkedNormal:
    """c = d·p + √s·u + √(1 - d² - s)·ε with prognosis p, and u along the image but not along the prognosis in it.

    With d = ``correlation``, r = ``image_share`` and the share R of p that the image explains, s = r - d²·R: the image
    explains r of c, and c correlates with p by d.

    Args:
        image_share, correlation: r and d.
        prognosis: p; None if both are 0.
        direction: (D,), made orthogonal to the prognosis.
        effects: number of random effects.

    Raises:
        ConfigError: r and d cannot be had together; says which r goes with d.
    """
    if prognosis is None:
        return LinkedNormal("confounder", np.zeros(len(direction)), np.zeros(effects), 1.0)
    of_image = prognosis.explained
    low, high = correlation**2 * of_image, 1 - correlation**2 * (1 - of_image)
    along = prognosis.image
    rest = direction - along * (direction @ along / of_image) if of_image > 0 else direction
    length = float(np.linalg.norm(rest))
    if length < 1e-9:
        high = low  # the prognosis is all that the image holds in these entries
    if not low - 1e-12 <= image_share <= high + 1e-12:
        raise ConfigError(
            "study.assignment.image_share does not go with study.assignment.prognosis",
            expected=f"{low:.4g} to {high:.4g} at prognosis {correlation:g}, the image explains {of_image:.4g} of it",
            got=image_share,
        )
    share = max(image_share - low, 0.0)
    image = correlation * along + (math.sqrt(share) / length * rest if share > 1e-12 else 0.0)
    own = math.sqrt(max(1 - correlation**2 - share, 0.0))
    return LinkedNormal("confounder", image, correlation * prognosis.noise, own)
