"""Sites: which site a subject belongs to, and how its number correlates with the arm or the outcome (a shortcut).

The site is cut from s = ρ·x + √(1 - ρ²)·ε, where x is the standardised arm or outcome; thresholds give the shares, and
ρ gives the designed correlation of the site's number with x. Both follow from the distribution of x: of the arms
exactly, of the outcome by quadrature.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key

FloatArray = NDArray[np.float64]
NEARLY_ONE = 1 - 1e-6


@dataclass(frozen=True)
class SiteDraw:
    """How sites are drawn: s = ρ·(x - mean) / sd + √(1 - ρ²)·ε, cut at ``thresholds``."""

    thresholds: tuple[float, ...]
    rho: float = 0.0
    mean: float = 0.0
    sd: float = 1.0

    def draw(self, linked: FloatArray | None, seed: int, ids: ArrayLike) -> NDArray[np.int64]:
        """The site (n,), from 0, of subjects with x (n,); x may be None if ρ is 0."""
        own = normals(stream_key(seed, "study", "site"), ids, 1)[:, 0]
        if self.rho and linked is not None:
            own = self.rho * (linked - self.mean) / self.sd + math.sqrt(1 - self.rho**2) * own
        return (own[:, None] > np.array(self.thresholds)).sum(1).astype(np.int64)


def design_sites(
    shares: Sequence[float], correlation: float = 0.0, x: ArrayLike = (0.0,), weights: ArrayLike = (1.0,)
) -> SiteDraw:
    """The draw with these shares, and this correlation of the site's number with x, distributed as ``x`` at
    ``weights``.

    Raises:
        ConfigError: no ρ gives the correlation; says which correlations can be had.
    """
    points, mass = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    mean = float(mass @ points)
    sd = math.sqrt(max(float(mass @ (points - mean) ** 2), 0.0))
    if not correlation:
        return SiteDraw(_cuts(shares, 0.0, np.zeros(1), np.ones(1)))
    if not sd:
        raise ConfigError("a shortcut to what does not vary", expected="study.shortcut.correlation 0", got=correlation)
    standard = (points - mean) / sd

    def reached(rho: float) -> float:
        return _correlation(shares, rho, standard, mass)

    low, high = reached(-NEARLY_ONE), reached(NEARLY_ONE)
    if not low < correlation < high:
        expected = f"{low:.3f} to {high:.3f} with these shares"
        raise ConfigError("impossible study.shortcut.correlation", expected=expected, got=correlation)
    rho = round(float(brentq(lambda r: reached(r) - correlation, -NEARLY_ONE, NEARLY_ONE, xtol=1e-12)), 10)
    return SiteDraw(_cuts(shares, rho, standard, mass), rho, round(mean, 10), round(sd, 10))


def cut_mixture(
    shares: Sequence[float], rho: float, x: ArrayLike, weights: ArrayLike
) -> tuple[tuple[float, ...], float]:
    """Thresholds of ρ·x + √(1 - ρ²)·ε with these shares between them, and the correlation of the number with x.

    x is distributed as ``x`` at ``weights``, with mean 0 and variance 1; |ρ| < 1.
    """
    points, mass = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    return _cuts(shares, rho, points, mass), _correlation(shares, rho, points, mass)


def _cuts(shares: Sequence[float], rho: float, x: FloatArray, mass: FloatArray) -> tuple[float, ...]:
    spread = math.sqrt(1 - rho**2)
    found = []
    for total in np.cumsum(shares)[:-1].tolist():
        cut = brentq(lambda t: float(mass @ ndtr((t - rho * x) / spread)) - total, -60, 60, xtol=1e-12)  # noqa: B023
        found.append(round(float(cut), 10))
    return tuple(found)


def _correlation(shares: Sequence[float], rho: float, x: FloatArray, mass: FloatArray) -> float:
    """Correlation of the site's number with standardised x."""
    spread, number = math.sqrt(1 - rho**2), np.arange(len(shares))
    expected = sum(ndtr((rho * x - cut) / spread) for cut in _cuts(shares, rho, x, mass))
    sd = math.sqrt(float(np.dot(shares, number**2) - np.dot(shares, number) ** 2))
    return float(mass @ (x * expected)) / sd
