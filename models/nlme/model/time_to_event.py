"""Likelihood of the time of an event: a hazard that is integrated with the model's equations, or one in closed form.

::

    likelihood=lambda t, x, p: TimeToEvent(baseline=Weibull(p.scale, p.shape), log_ratio=p.effect * p.treated)
    likelihood=lambda t, x, p: TimeToEvent(hazard=p.base * s.exp(p.link * x.size))

A subject is at risk from time 0 and has one observation of the endpoint: 1, the event, at its time or in an interval
before it, or 0, none up to then (docs/reference/population.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.endpoint_likelihood import FloatArray, Likelihood, UnresolvedEvent
from image_longitudinal.models.nlme.model.structural import Expression

TINY = 1e-30  # of a time: powers and logarithms of 0 have no derivatives


class Baseline(ABC):
    """A hazard in time whose integral has a closed form."""

    @abstractmethod
    def hazard(self, t: Expression) -> Expression:
        """Events per time at time t ≥ 0."""

    @abstractmethod
    def cumulative(self, t: Expression) -> Expression:
        """Its integral from 0 to t ≥ 0."""


@dataclass(frozen=True, eq=False)
class Weibull(Baseline):
    """H(t) = (t / scale)^shape; at ``scale``, 63 % have had the event. ``shape`` 1 is a constant hazard.

    With a shape below 1 the hazard is infinite at 0: as ``baseline`` only.
    """

    scale: Expression
    shape: Expression = 1.0

    def hazard(self, t: Expression) -> Expression:
        """shape / t · H(t)."""
        later = s.maximum(t, TINY)
        return self.shape / self.scale * s.exp((self.shape - 1.0) * s.log(later / self.scale))

    def cumulative(self, t: Expression) -> Expression:
        """(t / scale)^shape."""
        return s.exp(self.shape * s.log(s.maximum(t, TINY) / self.scale))


@dataclass(frozen=True, eq=False)
class Gompertz(Baseline):
    """h(t) = rate · exp(growth · t); ``growth`` may be negative, and 0 is a constant hazard."""

    rate: Expression
    growth: Expression

    def hazard(self, t: Expression) -> Expression:
        """rate · exp(growth · t)."""
        return self.rate * s.exp(self.growth * t)

    def cumulative(self, t: Expression) -> Expression:
        """rate / growth · (exp(growth · t) - 1), to 1e-8 also around a growth of 0."""
        growth = s.where(abs(self.growth) < 1e-9, 1e-9, self.growth)
        return self.rate * s.expm1(growth * t) / growth


@dataclass(frozen=True, eq=False)
class PiecewiseExponential(Baseline):
    """A hazard that is constant between ``cuts`` (ascending numbers above 0), one less than there are ``rates``.

    Raises:
        ConfigError: cuts that do not ascend from above 0, or another number of rates.
    """

    cuts: Sequence[float]
    rates: Sequence[Expression]

    def __post_init__(self) -> None:
        cuts = [0.0, *self.cuts]
        if cuts != sorted(set(cuts)) or len(self.rates) != len(cuts):
            expected, got = "ascending cuts above 0, and one rate more", f"cuts {cuts[1:]}, {len(self.rates)} rates"
            raise ConfigError("unusable piecewise hazard", expected=expected, got=got)

    def hazard(self, t: Expression) -> Expression:
        """The rate of the piece that ends at t or after it."""
        found = self.rates[-1]
        for cut, rate in reversed(list(zip(self.cuts, self.rates, strict=False))):
            found = s.where(t <= cut, rate, found)
        return found

    def cumulative(self, t: Expression) -> Expression:
        """The sum of rates times the time spent under each."""
        starts = [0.0, *self.cuts]
        total: Expression = 0.0
        for start, end, rate in zip(starts, [*self.cuts, None], self.rates, strict=True):
            spent = s.maximum(t - start, 0.0)
            total = total + rate * (spent if end is None else spent - s.maximum(t - end, 0.0))
        return total


@dataclass(frozen=True, eq=False)
class TimeToEvent(UnresolvedEvent):
    """The time of an event that happens once.

    Args:
        hazard: events per time, above 0: an expression in time, states, covariates and parameters. Its integral becomes
            a further state of the model's equations.
        baseline: in place of ``hazard``, one whose integral has a closed form: much faster.
        log_ratio: with ``baseline``, the logarithm of what multiplies it: an expression in parameters and covariates
            that are constant in time.

    Raises:
        ConfigError: both or none of hazard and baseline, or a ratio of a hazard that is integrated.
    """

    hazard: Expression | None = None
    baseline: Baseline | None = None
    log_ratio: Expression | None = None

    def __post_init__(self) -> None:
        if (self.hazard is None) == (self.baseline is None):
            raise ConfigError("a time to event needs one of hazard and baseline", got="both or none")
        if self.log_ratio is not None and self.baseline is None:
            raise ConfigError("a log_ratio without baseline", do="multiply the hazard by exp(...)")

    @property
    def integrated(self) -> Expression | None:
        """The hazard, if it is integrated with the equations."""
        return self.hazard

    @property
    def constant(self) -> Expression | None:
        """The log_ratio: the integral of what multiplies it is that of the baseline."""
        return self.log_ratio

    def accumulated(self, interval: Expression, total: Expression, before: Expression) -> Likelihood:
        """The likelihood for states that hold the integrals up to now and up to the begin of the interval."""
        return Event(self.hazard, total, before, interval, is_integrated=True)

    def in_closed_form(self, t: Expression, interval: Expression) -> Likelihood:
        """The likelihood of a ``baseline``."""
        assert self.baseline is not None
        ratio = 1.0 if self.log_ratio is None else s.exp(self.log_ratio)
        total, before = (self.baseline.cumulative(time) * ratio for time in (t, s.maximum(interval, 0.0)))
        return Event(self.baseline.hazard(t) * ratio, total, before, interval)


@dataclass(frozen=True, eq=False)
class Event(Likelihood):
    """A time to event within the equations.

    ``total`` and ``before``: the cumulative hazard up to now, and up to the begin of the interval of the event.
    ``interval``: below 0 if the time of the event is known; else the time at which the interval begins, and if
    ``is_integrated``, 1 before that time and 0 from then on.
    """

    hazard: Expression
    total: Expression
    before: Expression
    interval: Expression
    is_integrated: bool = False
    values = "1 (the event) or 0 (none up to this time)"

    @property
    def arguments(self) -> tuple[Expression, ...]:
        """Cumulative hazard, and hazard."""
        return self.total, self.hazard

    def log_density(self, y: Expression) -> Expression:
        """log h(t) - H(t) of an event at t, -H(t) without one, log(exp(-H(a)) - exp(-H(b))) of one between a and b.

        What a case does not use is 1 there: a logarithm of 0 would have no derivatives.
        """
        within = self.interval >= 0.0
        passed = s.where(within, self.total - self.before, 1.0)
        exact = s.where(y > 0.5, s.log(s.where(y > 0.5, self.hazard, 1.0)), 0.0)
        return s.where(within, s.log_one_minus_exp(-passed) - self.before, exact - self.total)

    def possible(self, y: FloatArray) -> NDArray[np.bool_]:
        """0 and 1."""
        return np.isin(y, (0.0, 1.0))

    def moments(self, arguments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The cumulative hazard, twice: y - H(t) is the martingale residual, whose variance H(t) is."""
        return arguments[0], arguments[0]
