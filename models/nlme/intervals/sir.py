"""Sampling importance resampling: estimates drawn around a fit and weighted by their likelihood.

Dosne, Bergstrand, Harling & Karlsson 2016, J Pharmacokinet Pharmacodyn 43:583. The likelihood, as a density of the
estimates on their natural scale, is the distribution that is sampled. The first proposal is that of the fit's standard
errors; later ones have mean and covariance of the weighted draws before (Dosne et al. 2017, 44:509), wider while the
largest weights decide too much. Proposals are multivariate t in the fit's coordinates, in which every draw is a model.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key, uniforms
from image_longitudinal.models.nlme.estimation.draws import distribution_of
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.pareto import UNRELIABLE, pareto_shapes
from image_longitudinal.models.nlme.intervals.likelihood_at import LikelihoodAt

FloatArray = NDArray[np.float64]
FREEDOM = 6.0  # degrees of freedom of the proposals' tails
ITERATIONS = 6  # at most
GAIN = 1.1  # growth of the effective number of draws below which iterations end
ENOUGH = 3  # effective draws for each coordinate, with which their covariance is the next proposal's
WIDER, WIDEST = 1.3, 4.0  # factor of the proposal's covariance, of one iteration and in all
SHARE = 5  # one of so many draws is resampled
FEWEST = 100  # draws


@dataclass(frozen=True)
class SirIteration:
    """``inflation``: factor of the proposal's covariance; ``effective``: number of draws; ``pareto_k`` of weights."""

    inflation: float
    effective: float
    pareto_k: float


@dataclass(frozen=True, eq=False)
class Sir:
    """The draws of the last iteration.

    ``estimates`` (N, m) with ``objective`` (N,) and ``weight`` (N,), of sum 1; ``resampled`` (N,): a fifth of them,
    drawn without replacement by weight, which may be used without weights. ``standard_errors``, ``lower``, ``median``,
    ``upper`` (m,): of the weighted draws; percentiles 2.5, 50 and 97.5.
    """

    names: tuple[str, ...]
    estimates: FloatArray
    objective: FloatArray
    weight: FloatArray
    resampled: NDArray[np.bool_]
    standard_errors: FloatArray
    lower: FloatArray
    median: FloatArray
    upper: FloatArray
    iterations: tuple[SirIteration, ...]

    @property
    def reliable(self) -> bool:
        """Whether the weights' tail allows to trust the percentiles."""
        return bool(self.iterations[-1].pareto_k <= UNRELIABLE)


def sir(
    found: Fit, likelihood: Callable[[], LikelihoodAt], samples: int = 1000, *, seed: int = 1, n_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Sir:  # fmt: skip
    """Sample the estimates' distribution.

    Args:
        found: a fit with a standard error of every estimate.
        likelihood: makes the objective at other estimates, one for each thread.
        samples: draws of each iteration, at least 100.
        seed: of the draws.
        n_threads: the result does not depend on it.
        progress: called with the number of draws that are evaluated, of ``samples`` x :data:`ITERATIONS`.

    Raises:
        ConfigError: too few samples, or a missing standard error.
    """
    if samples < FEWEST:
        raise ConfigError("too few samples", expected=f"at least {FEWEST}", got=samples)
    coordinates, center, covariance, known = distribution_of(found)
    if not known.all():
        lost = [name for name, own in zip(found.names, known, strict=True) if not own]
        do = "hold them (--fixed), or profile the others"
        raise ConfigError("SIR needs a standard error of every estimate", got=f"none of {', '.join(lost)}", do=do)
    m, inflation, done, history = len(center), 1.0, 0, list[SirIteration]()
    workers = [likelihood() for _ in range(max(1, n_threads))]
    volume = coordinates.log_volume(center)
    numbers = np.arange(samples)
    for iteration in range(ITERATIONS):
        factor = np.linalg.cholesky(inflation * covariance)
        z = normals(stream_key(seed, "sir", iteration), numbers, m)
        tail = uniforms(stream_key(seed, "sir tail", iteration), numbers, 1)[:, 0]
        z *= np.sqrt(FREEDOM / chi2.ppf(tail, FREEDOM))[:, None]
        psi = center + z @ factor.T
        log_q = -0.5 * (FREEDOM + m) * np.log1p(np.square(z).sum(axis=1) / FREEDOM)

        def evaluate(worker: int, points: FloatArray = psi, before: int = done) -> FloatArray:
            own = np.empty(len(points[worker :: len(workers)]))
            for place, point in enumerate(points[worker :: len(workers)]):
                own[place] = workers[worker](point)
                if progress and worker == 0:
                    progress(min(before + (place + 1) * len(workers), before + samples))
            return own

        objective = np.empty(samples)
        with ThreadPoolExecutor(len(workers)) as pool:
            for worker, values in enumerate(pool.map(evaluate, range(len(workers)))):
                objective[worker :: len(workers)] = values
        done += samples
        volumes = np.array([coordinates.log_volume(point) for point in psi]) - volume
        with np.errstate(invalid="ignore"):
            log_weight = np.where(
                np.isfinite(objective), -0.5 * (objective - found.objective) + volumes - log_q, -np.inf
            )
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        history.append(
            SirIteration(inflation, float(1.0 / np.square(weight).sum()), float(pareto_shapes(log_weight[None])[0]))
        )
        gained = iteration == 0 or history[-1].effective > GAIN * history[-2].effective
        if not gained and history[-1].pareto_k <= UNRELIABLE:
            break
        if history[-1].effective > ENOUGH * m:
            center = weight @ psi
            deviation = psi - center
            covariance = (weight[:, None] * deviation).T @ deviation
        wide = history[-1].pareto_k > UNRELIABLE or history[-1].effective <= ENOUGH * m
        inflation = float(np.clip(inflation * (WIDER if wide else 1.0 / WIDER), 1.0, WIDEST))
    estimates = np.array([coordinates.natural(point) for point in psi])
    mean = weight @ estimates
    lower, median, upper = (weighted_percentile(estimates, weight, q) for q in (2.5, 50.0, 97.5))
    return Sir(
        found.names, estimates, objective, weight, _resampled(weight, samples // SHARE, seed),
        np.sqrt(weight @ np.square(estimates - mean)), lower, median, upper, tuple(history),
    )  # fmt: skip


def weighted_percentile(values: FloatArray, weight: FloatArray, q: float) -> FloatArray:
    """Percentile q of each column of values (N, m) with weights (N,) of sum 1: (m,)."""
    out = np.empty(values.shape[1])
    for column in range(values.shape[1]):
        order = np.argsort(values[:, column], kind="stable")
        own = weight[order]
        out[column] = np.interp(q / 100.0, np.cumsum(own) - 0.5 * own, values[order, column])
    return out


def _resampled(weight: FloatArray, size: int, seed: int) -> NDArray[np.bool_]:
    """Draws without replacement by weight, (N,): the largest log(u) / weight (Efraimidis & Spirakis 2006)."""
    u = uniforms(stream_key(seed, "sir resample"), np.arange(len(weight)), 1)[:, 0]
    keys = np.where(weight > 0, np.log(u) / np.maximum(weight, 1e-300), -np.inf)
    chosen = np.zeros(len(weight), dtype=np.bool_)
    chosen[np.argsort(-keys, kind="stable")[: min(size, int((weight > 0).sum()))]] = True
    return chosen
