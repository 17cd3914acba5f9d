"""What outcomes say of N(g(x), Ω_r) without linearisation: posterior means of η, and the Ω_r of greatest likelihood.

Integrals over a subject's random effects are weighted means over draws from a proposal fitted to the subject, as in
:mod:`models.nlme.estimation.importance_sampling`. Modes will not do where the image explains nearly all: they are not means, their error is
as large as what the image leaves, and it goes with what the subject's data say. Nor will Ω less the covariance of g: a
small difference of large matrices, and right only if g neither overshoots nor falls short. The likelihood of subjects
that g has not seen knows how far their effects lie from it, whatever the reason.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.offset import Modes, OffsetObjective
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.importance_sampling import (
    ENOUGH,
    ImportanceSearch,
    draw_from_proposal,
    linearised_covariance,
)
from image_longitudinal.models.nlme.estimation.minimise import minimise
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

SUBJECTS = 2_000  # that Ω_r is settled by: a variance to 3 %, 90 % regions to 1.5 %
UNLIKE = 0.5  # standard deviation of the logarithms of what is left of Ω in its directions, before data are seen
STEP = 1e-5  # central differences of that prior
DRAWS = 200  # per subject for Ω_r
FEW_DRAWS = 60  # for a posterior mean, of which many are averaged
CHUNK = 2_000  # subjects at a time: draws x visits of each are held
KEY = stream_key(1, "evaluation-draws")  # the draws are a rule of quadrature: the same for every data set


def with_omega(model: PopulationModel, omega: FloatArray) -> PopulationModel:
    """The population model with another Ω, (k, k)."""
    return replace(model, omega=tuple(map(tuple, omega.tolist())))


def posterior_means(
    model: PopulationModel,
    observed: NDArray[np.floating],
    offsets: FloatArray,
    start: FloatArray,
    *,
    workers: int = 1,
) -> tuple[Modes, FloatArray]:
    """Modes of η under N(offset, Ω) and posterior means (n, k); the objective is that of the sampled likelihood.

    Args:
        model: population model with its design and Ω.
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start the search of modes from, (n, k), beside the offset.
        workers: threads; the result does not depend on it.
    """
    modes, means, share = np.empty(offsets.shape), np.empty(offsets.shape), np.empty(len(offsets))
    for begin in range(0, len(offsets), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(offsets)))
        search, delta, spread = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
        psi = search.coordinates.pack(search.coordinates.start)
        _draw(search, psi, delta, spread, FEW_DRAWS, begin)
        share[rows] = search.individual_objectives(psi)[0]
        modes[rows], means[rows] = offsets[rows] + delta, offsets[rows] + search.moments()[0]
    return Modes(modes, share), means


def likeliest_omega(
    model: PopulationModel,
    observed: NDArray[np.floating],
    offsets: FloatArray,
    start: FloatArray,
    total: FloatArray,
    *,
    workers: int = 1,
) -> FloatArray:
    """The likeliest Ω (k, k) given outcomes with η ~ N(offset, Ω), typical values and residual error held.

    What is left of the population's Ω in its several directions is taken to be alike until data say otherwise: in a
    direction on which data say little, few subjects would let it be anything from nothing to several times the truth.
    It is settled by subjects evenly spaced among those given. Offsets must be predictions by fits that have not seen
    them, or Ω comes out too small.

    Args:
        model: population model with its design; its Ω is where the search begins.
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start the search of modes from, (n, k), beside the offset.
        total: Ω of the population, (k, k).
        workers: threads; the result does not depend on it.
    """
    rows = np.unique(np.linspace(0, len(offsets) - 1, min(SUBJECTS, len(offsets))).astype(int))
    search, mean, spread = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
    psi = search.coordinates.pack(search.coordinates.start)
    steps = STEP * np.eye(len(psi))

    def prior(psi: FloatArray) -> float:
        return _unlikeness(search.coordinates.unpack(psi).omega, total)

    def function(psi: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = search.total(psi)
        slope = [(prior(psi + step) - prior(psi - step)) / (2 * STEP) for step in steps]
        return value + prior(psi), gradient + np.array(slope)

    for _ in range(2):  # the second with proposals fitted to the first's posteriors
        _draw(search, psi, mean, spread, DRAWS, 0)
        gradients = search.individual_objectives(psi)[1]
        curvature = 0.5 * gradients.T @ gradients + 1e-9 * np.eye(len(psi))
        psi, _, _ = minimise(function, psi, curvature, limit=50, tolerance=1e-6 * np.sqrt(len(rows)))
        search.individual_objectives(psi)
        found, around, effective = search.moments()
        better = effective > ENOUGH
        ridge = 1e-6 * np.diag(np.diag(search.coordinates.unpack(psi).omega))
        mean = np.where(better[:, None], found, mean)
        spread = np.where(better[:, None, None], around + ridge, spread)
    return search.coordinates.unpack(psi).omega


def _unlikeness(omega: FloatArray, total: FloatArray) -> float:
    """Minus twice the log density, but for constants, of the shares of the total that are left in its directions."""
    inverse = np.linalg.inv(np.linalg.cholesky(total))
    logs = np.log(np.linalg.eigvalsh(inverse @ omega @ inverse.T))
    return float(np.square(logs - logs.mean()).sum()) / UNLIKE**2


def _prepared(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray, workers: int
) -> tuple[ImportanceSearch, FloatArray, FloatArray]:
    """A search over Ω alone; modes δ (n, k) of η - offset and the linearised spread there, (n, k, k)."""
    objective, values = OffsetObjective.of(model, observed, offsets, workers=workers), PopulationParameters.of(model)
    objective.eta[:] = start - offsets
    objective.find_modes(values, np.zeros((1, offsets.shape[1])))
    coordinates = Coordinates(model, "full", (*model.parameter_names, "residual"))
    spread = linearised_covariance(objective, values, objective.eta)
    return ImportanceSearch(objective, coordinates, None), objective.eta, spread


def _draw(
    search: ImportanceSearch, psi: FloatArray, mean: FloatArray, spread: FloatArray, draws: int, first: int
) -> None:
    """Have the search use new draws around ``mean`` (n, k); subjects are numbered from ``first``."""
    objective, values = search.objective, search.coordinates.unpack(psi)
    center = objective.typical_phi(values)[:, objective.random]
    search.use(draw_from_proposal(objective.data.ids + first, center, mean, spread, values.omega, draws, KEY))
