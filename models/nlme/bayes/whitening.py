"""Coordinates in which a population posterior is easy to sample: each subject's parameters, whitened by its own data.

A hierarchical model has two usual parametrisations: centred ones mix badly with little data per subject, non-centred
ones with much (Papaspiliopoulos, Roberts & Sköld 2007, Statistical Science 22:59). Here every subject has its own, in
between: with its data approximated as Gaussian information P about its parameters φ (the k random ones, on the scale on
which random effects add),

    φ = A⁻¹ (b + Ω⁻¹ μ) + R⁻ᵀ z,    A = P + Ω⁻¹ = R Rᵀ,    b = P m,

z is standard normal whatever μ and Ω are, up to what is not Gaussian in the data. P = 0 is the non-centred
parametrisation, P → ∞ the centred one. The posterior is the same for any P and b; they only affect mixing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.logprob.transforms import Transform

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.importance_sampling import data_information
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Information:
    """Gaussian approximation of each subject's likelihood, exp(-½ φᵀPφ + bᵀφ): P (n, k, k) and b (n, k)."""

    precision: FloatArray
    shift: FloatArray

    @classmethod
    def of_fit(cls, fit: Fit, data: PopulationData) -> Information:
        """From the model linearised at the modes of a fit, so that z = 0 there."""
        objective, values = Objective(fit.model, data), PopulationParameters.of(fit.model)
        precision = data_information(objective, values, fit.eta)
        phi = objective.typical_phi(values)[:, objective.random] + fit.eta
        score = np.linalg.solve(values.omega, fit.eta.T).T  # of the data, at a mode of the joint density
        return cls(precision, np.einsum("nkl,nl->nk", precision, phi) + score)

    def phi(self, mu: FloatArray, omega: FloatArray, z: FloatArray) -> FloatArray:
        """φ (n, k) from z (n, k), for typical values ``mu`` (k,) and Ω (k, k)."""
        own = np.linalg.inv(omega)
        covariance = np.linalg.inv(self.precision + own)
        factor = np.linalg.cholesky(self.precision + own)
        mean = np.einsum("nkl,nl->nk", covariance, self.shift + own @ mu)
        return np.asarray(mean + np.linalg.solve(np.swapaxes(factor, 1, 2), z[:, :, None])[:, :, 0])


class Whitened(Transform):
    """φ ~ N(μ, Ω), (n, k), sampled as z; for PyMC's ``transform`` of a multivariate normal.

    Matrices are factored cell by cell, as vectors over subjects: k is small and n is large.
    """

    name = "whitened"
    ndim_supp = 1

    def __init__(self, information: Information) -> None:
        self.information = information

    def backward(self, value: Any, *inputs: Any) -> Any:
        """φ from z."""
        factor, center = self._factor(*inputs[-2:])
        k = len(factor)
        x: list[Any] = [center[a] + value[..., a] for a in range(k)]
        for a in reversed(range(k)):
            for b in range(a + 1, k):
                x[a] = x[a] - factor[b][a] * x[b]
            x[a] = x[a] / factor[a][a]
        return pt.stack(x, axis=-1)

    def forward(self, value: Any, *inputs: Any) -> Any:
        """z from φ."""
        factor, center = self._factor(*inputs[-2:])
        k = len(factor)
        columns = [sum(factor[b][a] * value[..., b] for b in range(a, k)) - center[a] for a in range(k)]
        return pt.stack(columns, axis=-1)

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """log |dφ / dz|, (n,)."""
        factor, _ = self._factor(*inputs[-2:])
        return -sum(pt.log(factor[a][a]) for a in range(len(factor)))

    def _factor(self, mu: Any, covariance: Any) -> tuple[list[list[Any]], list[Any]]:
        """R as a lower triangle of vectors (n,), and R⁻¹ (b + Ω⁻¹ μ) as vectors."""
        while covariance.ndim > 2:  # PyMC broadcasts the one covariance over subjects
            covariance = covariance[0]
        own = pt.linalg.inv(covariance)
        shift = mu @ own + self.information.shift
        k = self.information.shift.shape[1]
        factor: list[list[Any]] = []
        center: list[Any] = []
        for a in range(k):
            row: list[Any] = []
            for b in range(a + 1):
                cell = self.information.precision[:, a, b] + own[a, b]
                for c in range(b):
                    cell = cell - row[c] * (factor[b][c] if b < a else row[c])
                row.append(pt.sqrt(cell) if a == b else cell / factor[b][b])
            factor.append(row)
            rest = shift[:, a] - sum(row[c] * center[c] for c in range(a))
            center.append(rest / row[a])
        return factor, center
