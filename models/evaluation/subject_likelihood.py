"""The likelihood of outcomes under a prior mean per subject, η ~ N(g(x), Ω_r): modes, posterior means, best Ω_r.

Integrals over a subject's random effects are weighted means over draws from a proposal fitted to the subject, as in
:mod:`models.nlme.estimation.importance_sampling`. Where the image explains nearly all variance, modes are no
substitute: they are not means, their error is as large as what the image leaves, and it depends on the subject's data.
Neither is Ω less the covariance of g: it is a small difference of large matrices, and right only if g neither
overshoots nor falls short. The likelihood of subjects that g has not seen measures the distance between g and their
random effects, whatever its cause.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.ridge import row_chunks
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.importance_sampling import (
    ENOUGH,
    ImportanceSearch,
    draw_from_proposal,
    linearised_covariance,
)
from image_longitudinal.models.nlme.estimation.minimise import minimise
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

SUBJECTS = 2_000  # that Ω_r is estimated from: a variance to 3 %, the coverage of 90 % regions to 1.5 %
PRIOR_SD = 0.5  # of the log fractions of Ω left in its directions, around their mean
STEP = 1e-5  # of the central differences of that prior
DRAWS = 200  # per subject for Ω_r
FEW_DRAWS = 60  # for a posterior mean, of which many are averaged
DRAWN_TOGETHER = 2_000  # subjects: draws x visits of each are in memory
KEY = stream_key(1, "evaluation-draws")  # the draws are a quadrature rule: the same for every data set


class OffsetObjective(Objective):
    """The population objective with a prior mean for each subject's random effects, η = offset + δ.

    ``eta`` of the base class holds δ; ``offsets`` (n, k). Subjects are numbered 0..n-1.
    """

    offsets: FloatArray

    @classmethod
    def of(
        cls, model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, *,
        columns: NDArray[np.int64] | None = None, workers: int = 1,
    ) -> Self:  # fmt: skip
        """For subjects with outcomes (n, T) and offsets (n, k), at the visits ``columns`` (all if None)."""
        seen, times = np.asarray(observed, np.float64), np.asarray(model.design.times)
        if columns is not None:
            seen, times = seen[:, columns], times[columns]
        return cls.over(model, PopulationData.of_design(model.structural, seen, times, model.design.doses), offsets,
                        workers=workers)  # fmt: skip

    @classmethod
    def over(cls, model: PopulationModel, data: PopulationData, offsets: FloatArray, *, workers: int = 1) -> Self:
        """For the subjects of any table, with offsets (n, k)."""
        numbered = replace(data, ids=np.arange(len(data)), labels=tuple(map(str, data.names)))
        objective = cls(model, numbered, n_threads=workers)
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


def with_omega(model: PopulationModel, omega: FloatArray) -> PopulationModel:
    """The population model with another Ω, (k, k)."""
    return replace(model, omega=tuple(map(tuple, omega.tolist())))


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
    starts = starting_points(values.omega) if start is None else np.zeros((1, offsets.shape[1]))
    for rows in row_chunks(len(offsets)):
        objective = OffsetObjective.of(model, observed[rows], offsets[rows], columns=columns, workers=workers)
        if start is not None:
            objective.eta[:] = start[rows] - offsets[rows]
        twice_nll[rows] = objective.evaluate(values, starts)
        eta[rows] = offsets[rows] + objective.eta
    return Modes(eta, twice_nll)


def posterior_means(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray, *,
    workers: int = 1,
) -> tuple[Modes, FloatArray]:  # fmt: skip
    """As :func:`informed_modes`, with posterior means (n, k); the objective is that of the sampled likelihood."""
    modes, means, objective = np.empty(offsets.shape), np.empty(offsets.shape), np.empty(len(offsets))
    for rows in row_chunks(len(offsets), DRAWN_TOGETHER):
        search, delta, covariance = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
        psi = search.coordinates.pack(search.coordinates.start)
        _draw(search, psi, delta, covariance, FEW_DRAWS, rows.start)
        objective[rows] = search.individual_objectives(psi)[0]
        modes[rows], means[rows] = offsets[rows] + delta, offsets[rows] + search.moments()[0]
    return Modes(modes, objective), means


def likeliest_omega(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray,
    total: FloatArray, *, workers: int = 1,
) -> FloatArray:  # fmt: skip
    """The maximum-likelihood Ω (k, k) given outcomes with η ~ N(offset, Ω), typical values and residual error fixed.

    A prior holds the fractions of the population's Ω that are left in its directions close to each other: in a
    direction on which outcomes carry little information, the likelihood of few subjects alone would allow anything from
    zero to several times the truth. Subjects evenly spaced among those given are used. Offsets must be predictions by
    fits that have not seen these subjects, or Ω is underestimated.

    Args:
        model: population model with its design; its Ω is where the search begins.
        observed: as ``offsets``, ``start`` and ``workers`` in :func:`informed_modes`.
        total: Ω of the population, (k, k).
    """
    rows = np.unique(np.linspace(0, len(offsets) - 1, min(SUBJECTS, len(offsets))).astype(int))
    search, mean, covariance = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
    psi = search.coordinates.pack(search.coordinates.start)
    steps, whitening = STEP * np.eye(len(psi)), np.linalg.inv(np.linalg.cholesky(total))

    def prior(psi: FloatArray) -> float:
        """Minus twice the log density, without constants, of the fractions of ``total`` left in its directions."""
        logs = np.log(np.linalg.eigvalsh(whitening @ search.coordinates.unpack(psi).omega @ whitening.T))
        return float(np.square(logs - logs.mean()).sum()) / PRIOR_SD**2

    def function(psi: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = search.total(psi)
        slope = [(prior(psi + step) - prior(psi - step)) / (2 * STEP) for step in steps]
        return value + prior(psi), gradient + np.array(slope)

    for _ in range(2):  # the second with proposals fitted to the first's posteriors
        _draw(search, psi, mean, covariance, DRAWS, 0)
        gradients = search.individual_objectives(psi)[1]
        curvature = 0.5 * gradients.T @ gradients + 1e-9 * np.eye(len(psi))
        psi, _, _ = minimise(function, psi, curvature, limit=50, tolerance=1e-6 * np.sqrt(len(rows)))
        search.individual_objectives(psi)
        better_mean, better_covariance, effective = search.moments()
        ridge = 1e-6 * np.diag(np.diag(search.coordinates.unpack(psi).omega))
        enough = effective > ENOUGH
        mean = np.where(enough[:, None], better_mean, mean)
        covariance = np.where(enough[:, None, None], better_covariance + ridge, covariance)
    return search.coordinates.unpack(psi).omega


def _prepared(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray, workers: int
) -> tuple[ImportanceSearch, FloatArray, FloatArray]:
    """A search over Ω alone; modes δ (n, k) of η - offset, and the linearised posterior covariance there, (n, k, k)."""
    objective, values = OffsetObjective.of(model, observed, offsets, workers=workers), PopulationParameters.of(model)
    objective.eta[:] = start - offsets
    objective.find_modes(values, np.zeros((1, offsets.shape[1])))
    coordinates = Coordinates(model, "full", (*model.parameter_names, "residual"))
    covariance = linearised_covariance(objective, values, objective.eta)
    return ImportanceSearch(objective, coordinates, None), objective.eta, covariance


def _draw(
    search: ImportanceSearch, psi: FloatArray, mean: FloatArray, covariance: FloatArray, draws: int, first: int
) -> None:
    """Give the search new draws from N(mean (n, k), covariance); subjects are numbered from ``first``."""
    objective, values = search.objective, search.coordinates.unpack(psi)
    center = objective.typical_phi(values)[:, objective.random]
    search.use(draw_from_proposal(objective.data.ids + first, center, mean, covariance, values.omega, draws, KEY))
