"""The population objective with a prior mean per subject, η ~ N(offset, Ω), and the modes of η under it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.ridge import CHUNK
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


class OffsetObjective(Objective):
    """The population objective with a prior mean for each subject's random effects, η = offset + δ.

    ``eta`` of the base class holds δ; ``offsets`` (n, k). Subjects are numbered 0..n-1.
    """

    offsets: FloatArray

    @classmethod
    def of(
        cls,
        model: PopulationModel,
        observed: NDArray[np.floating],
        offsets: FloatArray,
        *,
        columns: NDArray[np.int64] | None = None,
        workers: int = 1,
    ) -> OffsetObjective:
        """For subjects with outcomes (n, T) and offsets (n, k), at the visits ``columns`` (all if None)."""
        seen, times = np.asarray(observed, np.float64), np.asarray(model.design.times)
        if columns is not None:
            seen, times = seen[:, columns], times[columns]
        data = PopulationData.of_design(model.structural, seen, times, model.design.doses)
        objective = cls(model, data, n_threads=workers)
        objective.offsets = offsets
        return objective

    def _mu(self, values: PopulationParameters, data: PopulationData) -> FloatArray:
        mu = super()._mu(values, data)
        mu[:, self.random] += self.offsets[data.ids]
        return mu


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes ``eta`` (n, k) of the random effects, and minus twice the marginal log-likelihood of each subject, (n,)."""

    eta: FloatArray
    objective: FloatArray


def informed_modes(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray | None = None, *,
    columns: NDArray[np.int64] | None = None, workers: int = 1,
) -> Modes:  # fmt: skip
    """Modes of η under N(offset, Ω), Ω that of ``model``, computed chunk by chunk.

    Args:
        model: population model with its design.
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start from, (n, k), offset included; several starts across the prior if None.
        columns: visits to use, positions in the design's times; all of them if None.
        workers: threads; the result does not depend on it.
    """
    values = PopulationParameters.of(model)
    eta, twice_nll = np.empty(offsets.shape), np.empty(len(offsets))
    for begin in range(0, len(offsets), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(offsets)))
        objective = OffsetObjective.of(model, observed[rows], offsets[rows], columns=columns, workers=workers)
        starts = starting_points(values.omega) if start is None else np.zeros((1, offsets.shape[1]))
        if start is not None:
            objective.eta[:] = start[rows] - offsets[rows]
        twice_nll[rows] = objective.evaluate(values, starts)
        eta[rows] = offsets[rows] + objective.eta
    return Modes(eta, twice_nll)
