"""Residual error: how an observation scatters around the individual prediction."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError

KINDS = ("additive", "proportional", "combined1", "combined2", "power", "log-normal", "likelihood")


@dataclass(frozen=True)
class ResidualError:
    """Normal scatter whose standard deviation depends on the prediction f.

    | kind | standard deviation of the observation | uses |
    |---|---|---|
    | additive | a | ``additive`` |
    | proportional | b·f | ``proportional`` |
    | combined1 | a + b·f | both |
    | combined2 | √(a² + b²f²) | both |
    | power | b·f^c | ``proportional``, ``power`` |
    | log-normal | a, on log scale: y = f·exp(a·ε) | ``additive`` |
    | likelihood | none: the endpoint has a likelihood in place of residual error (:data:`LIKELIHOOD`) | nothing |

    Raises:
        ConfigError: an unknown kind, a negative standard deviation, or all standard deviations of the kind 0.
    """

    kind: str
    additive: float = 0.0  # unit of the outcome (log-normal: of its logarithm)
    proportional: float = 0.0  # fraction of the prediction
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("unknown residual error", expected=", ".join(KINDS), got=repr(self.kind))
        needed = [self.additive] * self.uses_additive + [self.proportional] * self.uses_proportional
        if min(self.additive, self.proportional) < 0 or (needed and not sum(needed) > 0):
            what = f"residual error {self.kind!r} has impossible standard deviations"
            got = f"additive={self.additive}, proportional={self.proportional}"
            raise ConfigError(what, expected="none negative, and not all of the needed ones zero", got=got)

    @property
    def uses_additive(self) -> bool:
        """Whether this kind has the part ``additive``."""
        return self.kind in ("additive", "combined1", "combined2", "log-normal")

    @property
    def uses_proportional(self) -> bool:
        """Whether this kind has the part ``proportional``."""
        return self.kind in ("proportional", "combined1", "combined2", "power")

    def standard_deviation(self, prediction: Any) -> Any:
        """Standard deviation at a prediction: NumPy array or PyTensor variable, elementwise (log-normal: log scale)."""
        a, b = self.additive, self.proportional
        size = abs(prediction)
        if self.kind in ("additive", "log-normal"):
            return a + 0.0 * prediction
        if self.kind == "proportional":
            return b * size
        if self.kind == "combined1":
            return a + b * size
        if self.kind == "combined2":
            return (a**2 + (b * size) ** 2) ** 0.5
        if self.kind == "likelihood":
            return 0.0 * prediction
        return b * size**self.power

    def scatter(self, prediction: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Observations from predictions and standard normal draws, float64, same shape."""
        if self.kind == "likelihood":
            raise ConfigError(
                "an endpoint with a likelihood has no residual error to draw",
                do="simulate it by simulate (or models.nlme.simulation.outcomes)",
            )
        if self.kind == "log-normal":
            return np.asarray(prediction * np.exp(self.additive * noise))
        return np.asarray(prediction + self.standard_deviation(prediction) * noise)


LIKELIHOOD = ResidualError("likelihood")  # in the place of residual error, for endpoints of ``likelihood``
