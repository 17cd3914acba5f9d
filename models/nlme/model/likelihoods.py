"""Likelihoods of counts and ordered categories, for a model's ``likelihood``.

Arguments are expressions in time, states and parameters, or numbers::

    likelihood=lambda t, x, p: Poisson(rate=p.base * s.exp(-p.slope * x.central / p.v))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.endpoint_likelihood import Discrete, FloatArray, is_whole
from image_longitudinal.models.nlme.model.structural import Expression


@dataclass(frozen=True, eq=False)
class Poisson(Discrete):
    """A count whose mean and variance are ``rate`` (above 0: the expected number of this observation)."""

    rate: Expression
    values = "a whole number from 0 on"

    @property
    def arguments(self) -> tuple[Expression, ...]:
        """The rate."""
        return (self.rate,)

    def log_density(self, y: Expression) -> Expression:
        """y log λ - λ - log y!."""
        return y * s.log(self.rate) - self.rate - s.log_gamma(y + 1.0)

    def possible(self, y: FloatArray) -> NDArray[np.bool_]:
        """Whole numbers from 0 on."""
        return is_whole(y)

    def moments(self, arguments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both are the rate."""
        return arguments[0], arguments[0]

    def quantile(self, uniform: FloatArray, arguments: FloatArray) -> FloatArray:
        """By inversion of the distribution function."""
        from scipy.stats import poisson  # here: slow to import

        return np.asarray(poisson.ppf(uniform, arguments[0]))


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Discrete):
    """A count of mean m and variance m + α m² (both above 0).

    ``dispersion`` is α: 0 would be Poisson. (PyMC's ``alpha`` and R's ``size`` are 1 / α.)
    """

    mean: Expression
    dispersion: Expression
    values = "a whole number from 0 on"

    @property
    def arguments(self) -> tuple[Expression, ...]:
        """Mean and dispersion."""
        return self.mean, self.dispersion

    def log_density(self, y: Expression) -> Expression:
        """With r = 1 / α: log Γ(y + r) / (Γ(r) y!) - (r + y) log(1 + α m) + y log α m."""
        size, scaled = 1.0 / self.dispersion, self.dispersion * self.mean
        ways = s.log_gamma(y + size) - s.log_gamma(size) - s.log_gamma(y + 1.0)
        return ways - (size + y) * s.log(1.0 + scaled) + y * s.log(scaled)

    def possible(self, y: FloatArray) -> NDArray[np.bool_]:
        """Whole numbers from 0 on."""
        return is_whole(y)

    def moments(self, arguments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """m, and m + α m²."""
        mean, dispersion = arguments
        return mean, mean + dispersion * mean**2

    def quantile(self, uniform: FloatArray, arguments: FloatArray) -> FloatArray:
        """By inversion of the distribution function."""
        from scipy.stats import nbinom  # here: slow to import

        mean, dispersion = arguments
        return np.asarray(nbinom.ppf(uniform, 1.0 / dispersion, 1.0 / (1.0 + dispersion * mean)))


@dataclass(frozen=True, eq=False)
class Ordinal(Discrete):
    """Ordered categories with proportional odds: logit P(y ≤ level i) = cutpoint i - predictor.

    Args:
        predictor: a larger one makes higher levels likelier.
        logit_cutpoints: K ascending expressions, between K + 1 levels. They ascend whatever the parameters are if each
            is the one before plus a positive (log-normal) parameter.
        lowest: number of the lowest level; the levels are ``lowest``, ..., ``lowest`` + K.

    Raises:
        ConfigError: no cutpoint.
    """

    predictor: Expression
    logit_cutpoints: Sequence[Expression]
    lowest: int = 0

    def __post_init__(self) -> None:
        if not len(self.logit_cutpoints):
            raise ConfigError("an ordinal likelihood without cutpoints", expected="one or more", got="none")

    @property
    def values(self) -> str:  # type: ignore[override]
        """The levels, in words."""
        return f"a level from {self.lowest} to {self.lowest + len(self.logit_cutpoints)}"

    @property
    def arguments(self) -> tuple[Expression, ...]:
        """Predictor and cutpoints."""
        return self.predictor, *self.logit_cutpoints

    def log_density(self, y: Expression) -> Expression:
        """log of the difference of two logistic functions, without cancellation."""
        levels = [own - self.predictor for own in self.logit_cutpoints]
        found = -s.softplus(-levels[0])  # the lowest level
        for number, (below, above) in enumerate(zip(levels, [*levels[1:], None], strict=True), self.lowest + 1):
            own = -s.softplus(below)
            if above is not None:
                own = own - s.softplus(-above) + s.log_one_minus_exp(below - above)
            found = s.where(s.equal(y, float(number)), own, found)
        return found

    def possible(self, y: FloatArray) -> NDArray[np.bool_]:
        """Whole numbers from the lowest to the highest level."""
        return np.isin(y, self.lowest + np.arange(len(self.logit_cutpoints) + 1))

    def moments(self, arguments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of the level's number."""
        above = 1.0 - expit(arguments[1:] - arguments[0])  # (K, N): P(y > level i)
        number = np.arange(len(above))[:, None]
        mean = above.sum(axis=0)
        return self.lowest + mean, ((2.0 * number + 1.0) * above).sum(axis=0) - mean**2

    def quantile(self, uniform: FloatArray, arguments: FloatArray) -> FloatArray:
        """By the probabilities of each level or less."""
        below = expit(arguments[1:] - arguments[0])
        return np.asarray(self.lowest + (uniform > below).sum(axis=0), dtype=np.float64)
