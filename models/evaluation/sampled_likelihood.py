"""The likelihood of outcomes under N(g(x), Ω_r) without linearisation: posterior means of η, and the best Ω_r.

Integrals over a subject's random effects are weighted means over draws from a proposal fitted to the subject, as in
:mod:`models.nlme.estimation.importance_sampling`. Where the image explains nearly all variance, modes are no
substitute: they are not means, their error is as large as what the image leaves, and it depends on the subject's data.
Neither is Ω less the covariance of g: it is a small difference of large matrices, and right only if g neither
overshoots nor falls short. The likelihood of subjects that g has not seen measures the distance between g and their
random effects, whatever its cause.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key
from image_longitudinal.models.evaluation.offset_objective import Modes, OffsetObjective
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

SUBJECTS = 2_000  # that Ω_r is estimated from: a variance to 3 %, the coverage of 90 % regions to 1.5 %
PRIOR_SD = 0.5  # of the log fractions of Ω left in its directions, around their mean
STEP = 1e-5  # of the central differences of that prior
DRAWS = 200  # per subject for Ω_r
FEW_DRAWS = 60  # for a posterior mean, of which many are averaged
CHUNK = 2_000  # subjects at a time: draws x visits of each are in memory
KEY = stream_key(1, "evaluation-draws")  # the draws are a quadrature rule: the same for every data set


def with_omega(model: PopulationModel, omega: FloatArray) -> PopulationModel:
    """The population model with another Ω, (k, k)."""
    return replace(model, omega=tuple(map(tuple, omega.tolist())))


def posterior_means(
    model: PopulationModel, observed: NDArray[np.floating], offsets: FloatArray, start: FloatArray, *,
    workers: int = 1,
) -> tuple[Modes, FloatArray]:  # fmt: skip
    """Modes of η under N(offset, Ω) and posterior means (n, k); the objective is that of the sampled likelihood.

    Args:
        model: population model with its design and Ω.
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start the search of modes from, (n, k), offset included.
        workers: threads; the result does not depend on it.
    """
    modes, means, objective = np.empty(offsets.shape), np.empty(offsets.shape), np.empty(len(offsets))
    for begin in range(0, len(offsets), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(offsets)))
        search, delta, covariance = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
        psi = search.coordinates.pack(search.coordinates.start)
        _draw(search, psi, delta, covariance, FEW_DRAWS, begin)
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
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start the search of modes from, (n, k), offset included.
        total: Ω of the population, (k, k).
        workers: threads; the result does not depend on it.
    """
    rows = np.unique(np.linspace(0, len(offsets) - 1, min(SUBJECTS, len(offsets))).astype(int))
    search, mean, covariance = _prepared(model, observed[rows], offsets[rows], start[rows], workers)
    psi = search.coordinates.pack(search.coordinates.start)
    steps = STEP * np.eye(len(psi))

    def prior(psi: FloatArray) -> float:
        return _log_fraction_penalty(search.coordinates.unpack(psi).omega, total)

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
        posterior_mean, posterior_covariance, effective = search.moments()
        better = effective > ENOUGH
        ridge = 1e-6 * np.diag(np.diag(search.coordinates.unpack(psi).omega))
        mean = np.where(better[:, None], posterior_mean, mean)
        covariance = np.where(better[:, None, None], posterior_covariance + ridge, covariance)
    return search.coordinates.unpack(psi).omega


def _log_fraction_penalty(omega: FloatArray, total: FloatArray) -> float:
    """Minus twice the log prior density, without constants, of the fractions of ``total`` left in its directions."""
    inverse = np.linalg.inv(np.linalg.cholesky(total))
    logs = np.log(np.linalg.eigvalsh(inverse @ omega @ inverse.T))
    return float(np.square(logs - logs.mean()).sum()) / PRIOR_SD**2


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
