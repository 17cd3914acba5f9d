"""Diagnostics of a population model against data: residuals, simulated replicates, npde, visual predictive checks.

Arrays (N,) are in the order of the data's observations; :mod:`models.nlme.diagnostics.plots` plots them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.outcomes import drawn_values, expected, predictions_and_arguments
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters

FloatArray = NDArray[np.float64]
CHUNK = 1000  # subjects at a time: bounds the memory
PERCENTILES = (5.0, 50.0, 95.0)  # of the outcomes, in a visual predictive check
MOST_BINS = 12


@dataclass(frozen=True, eq=False)
class Residuals:
    """Predictions and residuals of every observation, each (N,).

    ``pred``: the prediction for η = 0. ``ipred``: at the subject's empirical Bayes estimate. ``iwres``: (y - ipred)
    over the residual standard deviation. ``cwres``: conditional weighted residuals (Hooker, Staatz & Karlsson 2007,
    Pharm Res 24:2187), independent and N(0, 1) under the right model, as far as linearisation at η̂ is accurate. With
    log-normal residual error all residuals are on the log scale. Residuals of censored rows are NaN.

    Of an endpoint with a likelihood, predictions are means (of an event: the cumulative hazard at its time), ``iwres``
    Pearson residuals (of an event: martingale residuals over their standard deviation), and ``cwres`` NaN.
    """

    pred: FloatArray
    ipred: FloatArray
    iwres: FloatArray
    cwres: FloatArray


def residuals(model: PopulationModel, data: PopulationData, eta: FloatArray) -> Residuals:
    """Residuals at a model's values and empirical Bayes estimates ``eta`` (n, k).

    Raises:
        SimulationError: a subject's equations cannot be integrated.
    """
    values, objective = PopulationParameters.of(model), Objective(model, data)
    pred = objective.predict(values, np.zeros_like(eta))[0]
    ipred, slope = objective.predict(values, eta)
    sd, rows = model.standard_deviation(ipred, data.endpoint), model.logarithmic(data.endpoint)
    slope[rows] /= ipred[rows, None]
    individual = data.observed - ipred
    with np.errstate(divide="ignore", invalid="ignore"):
        individual[rows] = np.log(data.observed[rows] / ipred[rows])
    population = individual + np.einsum("nk,nk->n", slope, eta[data.subject_of_row])  # y - E(y), linearised at η̂
    individual[data.censored] = np.nan
    normal = model.has_residual_error(data.endpoint) & ~data.censored
    cwres, seen = np.full(len(pred), np.nan), np.flatnonzero(normal)
    for block in equal_blocks(data.with_rows(normal)):
        own = seen[block]
        g = slope[own]  # (subjects, T, k)
        covariance = g @ values.omega @ g.transpose(0, 2, 1) + np.eye(own.shape[1]) * sd[own][:, None, :] ** 2
        cwres[own] = decorrelated(covariance, population[own])
    if model.structural.likelihood is None:
        return Residuals(pred, ipred, individual / sd, cwres)
    pred = expected(model, np.zeros_like(eta), data)
    ipred, parts = predictions_and_arguments(model, individual_parameters(model, eta), data)
    for part in parts:
        mean, variance = part.likelihood.moments(part.values)
        individual[part.rows], sd[part.rows] = data.observed[part.rows] - mean, np.sqrt(variance)
    return Residuals(pred, ipred, individual / sd, cwres)


def decorrelated(covariance: FloatArray, x: FloatArray) -> FloatArray:
    """Σ^(-1/2) x with the symmetric root: covariance (n, T, T), x (n, T) → (n, T)."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-12 * values[:, -1:])
    rotated = np.einsum("nst,ns->nt", vectors, x) / np.sqrt(values)
    return np.asarray(np.einsum("nst,nt->ns", vectors, rotated))


def replicates(model: PopulationModel, data: PopulationData, n: int, *, seed: int) -> Iterator[FloatArray]:
    """``n`` simulated sets of observations under the data's own designs, each (N,); NaN in rows of an event.

    The draws of a subject depend on seed, replicate, subject id and position alone.

    Raises:
        SimulationError: a subject's equations cannot be integrated.
    """
    values, objective = PopulationParameters.of(model), Objective(model, data, tolerance=1e-6)
    factor = np.linalg.cholesky(values.omega)
    position = np.arange(len(data.times)) - data.row_start[data.subject_of_row]
    widest = int(position.max()) + 1
    for replicate in range(n):
        eta = normals(stream_key(seed, "replicate eta", replicate), data.ids, len(factor)) @ factor.T
        noise = normals(stream_key(seed, "replicate residual", replicate), data.ids, widest)
        phi = objective.typical_phi(values)
        phi[:, objective.random] += eta
        own = noise[data.subject_of_row, position]
        if model.structural.likelihood is None:
            yield model.scatter(objective.predict_at(phi), data.endpoint, own)
            continue
        parameters = individual_parameters(model, eta)
        predicted, parts = predictions_and_arguments(model, parameters, data, tolerance=objective.tolerance)
        simulated = model.scatter(predicted, data.endpoint, own)
        drawn_values(parts, ndtr(own), simulated)
        yield simulated


def npde(model: PopulationModel, data: PopulationData, *, n: int = 500, seed: int = 1) -> FloatArray:
    """Normalised prediction distribution errors, decorrelated within subjects, (N,).

    N(0, 1) and uncorrelated under the right model, without any linearisation (Brendel et al. 2006, Pharm Res 23:2036).
    NaN in rows that are censored or of an endpoint with a likelihood, which are ignored. The ``n`` replicates must
    outnumber the observations of any subject.

    Raises:
        ConfigError: too few replicates.
        SimulationError: a subject's equations cannot be integrated.
    """
    seen = model.has_residual_error(data.endpoint) & ~data.censored
    whole = np.full(len(data.times), np.nan)
    if not seen.any():
        return whole
    most = int(np.diff(data.row_start).max())
    if n <= most + 1:
        raise ConfigError("too few replicates to decorrelate", expected=f"more than {most + 1}", got=n)
    data = data.with_rows(seen)
    result = np.empty(len(data.times))
    for first in range(0, len(data), CHUNK):
        part = data.subset(first, min(first + CHUNK, len(data)))
        simulated = np.stack(list(replicates(model, part, n, seed=seed)))
        for rows in equal_blocks(part):
            result[rows + data.row_start[first]] = _npde(simulated[:, rows], part.observed[rows])
    whole[seen] = result
    return whole


def _npde(simulated: FloatArray, observed: FloatArray) -> FloatArray:
    """Simulated (replicates, subjects, T) against observed (subjects, T)."""
    n, _, width = simulated.shape
    mean = simulated.mean(axis=0)
    gap = simulated - mean
    covariance = np.einsum("rns,rnt->nst", gap, gap) / (n - 1)
    floor = 1e-12 * np.einsum("ntt->n", covariance) + 1e-300
    factor = np.linalg.cholesky(covariance + floor[:, None, None] * np.eye(width))
    # a triangular factor keeps the order of time: each value is decorrelated from the earlier ones
    seen = np.linalg.solve(factor, (observed - mean)[..., None])[..., 0]
    drawn = np.linalg.solve(factor, gap.transpose(1, 2, 0))  # (subjects, T, replicates)
    below = (drawn < seen[..., None]).mean(axis=-1)
    return np.asarray(ndtri(np.clip(below, 0.5 / n, 1.0 - 0.5 / n)))


def equal_blocks(data: PopulationData) -> Iterator[NDArray[np.int64]]:
    """Row numbers (subjects, T) of the subjects with T observations each, for every T that occurs; in small blocks."""
    counts = np.diff(data.row_start)
    for count in np.unique(counts[counts > 0]):
        starts = data.row_start[:-1][counts == count]
        for first in range(0, len(starts), CHUNK):
            yield starts[first : first + CHUNK, None] + np.arange(count)


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """The q :data:`PERCENTILES` of the outcome in B time bins.

    ``time`` (B,): median observation time of each bin; ``count`` (B,); ``observed`` (B, q);
    ``low``, ``middle``, ``high`` (B, q): median and 95 % band of the simulated percentiles. ``corrected``: whether
    outcomes are prediction-corrected. ``times`` and ``outcomes`` (N,): the observations.
    """

    time: FloatArray
    count: NDArray[np.int64]
    observed: FloatArray
    low: FloatArray
    middle: FloatArray
    high: FloatArray
    corrected: bool
    times: FloatArray
    outcomes: FloatArray

    @property
    def inside(self) -> float:
        """Share of the observed percentiles that lie in their band."""
        return float(((self.low <= self.observed) & (self.observed <= self.high)).mean())


def predictive_check(
    model: PopulationModel, data: PopulationData, *, n: int = 200, seed: int = 1, bins: int | ArrayLike | None = None,
    corrected: bool = False,
) -> PredictiveCheck:  # fmt: skip
    """Simulate the data's own designs ``n`` times under a model and compare percentiles bin by bin.

    Args:
        n: replicates.
        bins: number of bins with about equally many observations, or their edges (ascending); None: one bin per
            distinct time if there are at most 24, else 12.
        corrected: prediction correction (Bergstrand et al. 2011, AAPS J 13:143): each outcome is multiplied by the
            bin's median population prediction over its own, so that doses and covariates that differ within a bin do
            not widen it. An outcome with population prediction 0 is not changed.

    Raises:
        ConfigError: unusable bins.
        SimulationError: a subject's equations cannot be integrated.
    """
    everything = [""] * len(data.times)
    return predictive_checks(model, data, everything, n=n, seed=seed, bins=bins, corrected=corrected)[""]


def predictive_checks(
    model: PopulationModel, data: PopulationData, strata: ArrayLike, *, n: int = 200, seed: int = 1,
    bins: int | ArrayLike | None = None, corrected: bool = False,
) -> dict[str, PredictiveCheck]:  # fmt: skip
    """As :func:`predictive_check`, for each group of observations by itself: endpoints, arms, values of a covariate.

    Args:
        strata: label of each observation, (N,); the keys of the result, in the order in which they come.
    """
    labels = np.asarray(strata).astype(str)
    first = np.unique(labels, return_index=True)[1]
    members: dict[str, list[NDArray[np.int64]]] = {}
    for label in labels[np.sort(first)]:
        rows = np.flatnonzero(labels == label)
        bin_of = _bins(data.times[rows], bins)
        members[str(label)] = [rows[bin_of == own] for own in np.unique(bin_of)]
    together = [rows for own in members.values() for rows in own]
    scale = _correction(model, data, together) if corrected else np.ones(len(data.times))

    limit = np.full(len(model.residuals), -np.inf)  # of quantification: values below are shown at it
    np.maximum.at(limit, data.endpoint[data.censored], data.observed[data.censored])

    def percentiles(outcomes: FloatArray) -> FloatArray:
        shown = np.maximum(outcomes, limit[data.endpoint]) * scale
        return np.stack([np.percentile(shown[rows], PERCENTILES) for rows in together])

    simulated = np.stack([percentiles(one) for one in replicates(model, data, n, seed=seed)])
    low, middle, high = np.percentile(simulated, (2.5, 50.0, 97.5), axis=0)
    observed, checks, start = percentiles(data.observed), {}, 0
    for label, own in members.items():
        where, rows = slice(start, start + len(own)), np.sort(np.concatenate(own))
        checks[label] = PredictiveCheck(
            time=np.array([np.median(data.times[rows]) for rows in own]),
            count=np.array([len(rows) for rows in own]),
            observed=observed[where],
            low=low[where],
            middle=middle[where],
            high=high[where],
            corrected=corrected,
            times=data.times[rows],
            outcomes=(data.observed * scale)[rows],
        )
        start += len(own)
    return checks


def _bins(times: FloatArray, bins: int | ArrayLike | None) -> NDArray[np.int64]:
    """The bin of every time."""
    distinct = np.unique(times)
    if bins is None and len(distinct) <= 2 * MOST_BINS:
        return np.searchsorted(distinct, times)
    if bins is None or np.ndim(bins) == 0:
        number = MOST_BINS if bins is None else int(np.asarray(bins))
        if number < 1:
            raise ConfigError("unusable bins of a predictive check", expected="a number from 1 on", got=bins)
        edges = np.unique(np.quantile(times, np.linspace(0, 1, number + 1)[1:-1]))
    else:
        edges = np.asarray(bins, dtype=np.float64)
        if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError("unusable bins of a predictive check", expected="ascending edges", got=bins)
    return np.searchsorted(edges, times, side="right")


def _correction(model: PopulationModel, data: PopulationData, members: list[NDArray[np.int64]]) -> FloatArray:
    """Factor of each outcome: the bin's median population prediction over its own."""
    no_effects = np.zeros((len(data), model.n_random_effects))
    if model.structural.likelihood is None:
        pred = Objective(model, data).predict(PopulationParameters.of(model), no_effects)[0]
    else:
        pred = expected(model, no_effects, data)
    scale = np.ones(len(pred))
    for rows in members:
        own = pred[rows]
        scale[rows] = np.divide(np.median(own), own, out=np.ones(len(own)), where=own != 0)
    return scale
