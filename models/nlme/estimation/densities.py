"""Log density of every subject's observations at given parameters, on threads."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.kernels.curvature import data_derivatives, data_hessians
from image_longitudinal.models.nlme.kernels.likelihood import subject_densities
from image_longitudinal.models.nlme.kernels.records import EventArrays

FloatArray = NDArray[np.float64]
STEP = 1e-3  # of differences in logarithms of residual values: second differences are exact to 1e-6


class Densities:
    """log p(y | φ) of the subjects of an objective; φ (n, p) is on the scale on which random effects add."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.parts: list[tuple[slice, PopulationData, EventArrays]] = [
            (where, data, data.arrays) for where, data in objective.pieces
        ]
        self.rows = objective.data.row_start

    def predictions(self, phi: FloatArray) -> FloatArray:
        """Predictions (N,), NaN for subjects that cannot be integrated."""
        out = np.empty(len(self.objective.data.times))

        def run(part: tuple[slice, PopulationData, EventArrays]) -> None:
            where, _, arrays = part
            out[self._rows(where)] = self.objective.predict_where_possible(phi[where], arrays)

        self.objective.in_threads(run, self.parts)
        return out

    def __call__(self, predicted: FloatArray, error: FloatArray) -> FloatArray:
        """Log densities (n,) at predictions (N,) and residual values ``error``; -inf where impossible."""
        out = np.empty(len(self.objective.data))

        def run(part: tuple[slice, PopulationData, EventArrays]) -> None:
            where, _, arrays = part
            subject_densities(
                self.objective.kinds, error, arrays.observed, arrays.endpoint, arrays.censored, arrays.row_start,
                predicted[self._rows(where)], out[where], np.empty((0, 0)),
            )  # fmt: skip

        self.objective.in_threads(run, self.parts)
        return out

    def by_error(
        self, predicted: FloatArray, error: FloatArray, positions: list[int]
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """First and second derivatives (n, e) of the log densities by the logarithms of some residual values."""
        here = self(predicted, error)
        first, second = np.empty((len(here), len(positions))), np.empty((len(here), len(positions)))
        for column, i in enumerate(positions):
            sides = []
            for sign in (1.0, -1.0):
                moved = error.copy()
                moved[i] *= np.exp(sign * STEP)
                sides.append(self(predicted, moved))
            first[:, column] = (sides[0] - sides[1]) / (2.0 * STEP)
            second[:, column] = (sides[0] + sides[1] - 2.0 * here) / STEP**2
        return first, second

    def by_phi(self, phi: FloatArray, values: PopulationParameters) -> tuple[FloatArray, FloatArray]:
        """Derivative (n, p) of the log densities by φ, and the expected information (n, p, p).

        Both are 0 for a subject that cannot be differentiated at its φ.
        """
        n, p = phi.shape
        first, second = np.zeros((n, p)), np.zeros((n, p, p))

        def run(part: tuple[slice, PopulationData, EventArrays]) -> None:
            where, data, _ = part
            problem = self.objective.problem(values, data)
            data_derivatives(problem, np.ascontiguousarray(phi[where]), first[where], second[where])

        self.objective.in_threads(run, self.parts)
        return -first, second

    def hessians(self, phi: FloatArray, values: PopulationParameters) -> FloatArray:
        """Minus the second derivatives (n, p, p) of the log densities by φ; 0 where they do not exist."""
        n, p = phi.shape
        out = np.zeros((n, p, p))

        def run(part: tuple[slice, PopulationData, EventArrays]) -> None:
            where, data, _ = part
            data_hessians(self.objective.problem(values, data), np.ascontiguousarray(phi[where]), out[where])

        self.objective.in_threads(run, self.parts)
        return out

    def _rows(self, where: slice) -> slice:
        return slice(self.rows[where.start], self.rows[where.stop])
