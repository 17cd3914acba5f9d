"""The population parameters that are estimated, and the scales on which random effects add."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PopulationParameters:
    """Typical values μ on the scale on which random effects add (p,), Ω (k, k), residual errors.

    ``error`` (3 per endpoint): additive, proportional, power.
    """

    mu: FloatArray
    omega: FloatArray
    error: FloatArray

    @classmethod
    def of(cls, model: PopulationModel) -> PopulationParameters:
        """The parameters of a population model."""
        mu = [link(parameter.distribution, parameter.typical) for parameter in model.parameters]
        error = np.array([[r.additive, r.proportional, r.power] for r in model.residuals]).ravel()
        return cls(np.array(mu), np.array(model.omega, dtype=np.float64), error)

    def into(self, model: PopulationModel) -> PopulationModel:
        """The population model with these parameters."""
        typical = [inverse_link(own.distribution, m) for own, m in zip(model.parameters, self.mu, strict=True)]
        rows = self.error.reshape(-1, 3).tolist()
        residuals = tuple(ResidualError(own.kind, *row) for own, row in zip(model.residuals, rows, strict=True))
        return replace(
            model,
            parameters=tuple(replace(p, typical=float(v)) for p, v in zip(model.parameters, typical, strict=True)),
            omega=tuple(tuple(float(v) for v in row) for row in self.omega),
            residual=residuals[0],
            other_residuals=residuals[1:],
        )


def link(distribution: str, value: ArrayLike) -> FloatArray:
    """A parameter value on the scale on which its random effect adds."""
    value = np.asarray(value, dtype=np.float64)
    if distribution == "log-normal":
        return np.log(value)
    return np.log(value / (1.0 - value)) if distribution == "logit-normal" else value


def inverse_link(distribution: str, value: ArrayLike) -> FloatArray:
    """The parameter value from the scale on which its random effect adds."""
    value = np.asarray(value, dtype=np.float64)
    if distribution == "log-normal":
        return np.exp(value)
    return 1.0 / (1.0 + np.exp(-value)) if distribution == "logit-normal" else value
