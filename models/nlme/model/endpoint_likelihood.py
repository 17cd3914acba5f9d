"""What the likelihood of an endpoint is made of, for endpoints without residual error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from image_longitudinal.models.nlme.model.structural import Expression

FloatArray = NDArray[np.float64]


class Likelihood(ABC):
    """Distribution of an observation y given the individual parameters: symbolic for fits, in numbers for simulation.

    ``values`` says in words what y may be.
    """

    values: str

    @property
    @abstractmethod
    def arguments(self) -> tuple[Expression, ...]:
        """Expressions that decide the distribution, in the order of the arrays of :meth:`moments`."""

    @abstractmethod
    def log_density(self, y: Expression) -> Expression:
        """log p(y), symbolic."""

    @abstractmethod
    def possible(self, y: FloatArray) -> NDArray[np.bool_]:
        """Whether each value (N,) is one that y may have."""

    @abstractmethod
    def moments(self, arguments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of y, (N,) each, from values (a, N) of the arguments."""


class UnresolvedEvent(ABC):
    """A time to event as a model file writes it; its likelihood needs what the equations add (model.symbolic)."""

    @property
    @abstractmethod
    def integrated(self) -> Expression | None:
        """The hazard, if it is integrated with the equations."""

    @property
    @abstractmethod
    def constant(self) -> Expression | None:
        """What must not depend on time."""

    @abstractmethod
    def accumulated(self, interval: Expression, total: Expression, before: Expression) -> Likelihood:
        """The likelihood for states that hold the integrals up to now and up to the begin of the interval."""

    @abstractmethod
    def in_closed_form(self, t: Expression, interval: Expression) -> Likelihood:
        """The likelihood of a hazard that is not integrated."""


class Discrete(Likelihood):
    """Distribution of a whole number."""

    @abstractmethod
    def quantile(self, uniform: FloatArray, arguments: FloatArray) -> FloatArray:
        """The smallest values whose probability of that or less reaches ``uniform`` (N,), from arguments (a, N)."""


def is_whole(y: Any) -> NDArray[np.bool_]:
    """Whether each value is a whole number ≥ 0."""
    values = np.asarray(y, dtype=np.float64)
    return np.asarray((values >= 0) & (values % 1 == 0))
