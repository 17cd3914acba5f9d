"""The image-informed mixed-effects model: the image sets the mean of a subject's random effects, η ~ N(g(x), Ω_r).

Rounds of two steps: modes of η under the present N(g(x), Ω_r), then regression of their distance from g on the image's
features x. A mode is shrunk towards g where a subject's data say little, so the distance is divided by its shrinkage
(exact where everything is linear and normal). The first round, from g = 0, is the one-step correction.

What keeps it from diverging at weak association, where modes are not means: g is centred, Ω_r is the population's Ω
less the covariance of *cross-fitted* g (predictions of training subjects by fits that have not seen them), with a
floor, and the rounds end when the marginal likelihood of training subjects under their cross-fitted g stops improving.

Where the image explains nearly all, both steps change. Ω_r is then a small difference of large matrices, the worse the
more the population's Ω is biased: a few EM steps move it towards its maximum of that likelihood. And modes under so
narrow a prior are means, so each subject counts by what its data say of g, a matrix: a step of Gauss and Newton on the
likelihood, which does not ask how the whole population is spread, as undoing its shrinkage does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.evaluation.ridge import CHUNK, CrossFitted, Linear, cross_fit, fold_of
from models.evaluation.weighted import WeightedEquations
from models.nlme.data import PopulationData
from models.nlme.estimation import starting_points
from models.nlme.importance import linearised_spread
from models.nlme.objective import Objective, Values
from models.nlme.population import PopulationModel

FloatArray = NDArray[np.float64]
Report = Callable[[int, float], None]

FLOOR = 0.02  # of Ω in any direction: what no image is taken to explain
STRETCH = 4.0  # most by which a distance is stretched to undo its shrinkage
NARROW = 0.25  # share of Ω left, in some direction, below which the image explains nearly all
EM_SUBJECTS, EM_STEPS = 4_000, 12  # that Ω_r is settled by
GAIN = 1e-4  # of the objective per subject: a smaller improvement ends the rounds


class OffsetObjective(Objective):
    """The population objective with a mean of its own for each subject's random effects, η = offset + δ.

    ``eta`` of the base class holds δ; ``offsets`` (n, k). Subjects are numbered 0..n-1.
    """

    offsets: FloatArray

    def _mu(self, values: Values, data: PopulationData) -> FloatArray:
        mu = super()._mu(values, data)
        mu[:, self.random] += self.offsets[data.ids]
        return mu


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes ``eta`` (n, k) of the random effects, and minus twice the marginal log-likelihood of each subject, (n,)."""

    eta: FloatArray
    objective: FloatArray


def informed_modes(
    model: PopulationModel,
    observed: NDArray[np.floating],
    offsets: FloatArray,
    start: FloatArray | None = None,
    *,
    columns: NDArray[np.int64] | None = None,
    workers: int = 1,
) -> Modes:
    """Modes of η under N(offset, Ω) with Ω that of ``model``; chunk by chunk.

    Args:
        model: population model with its design.
        observed: outcomes (n, T), an array or a view of a file.
        offsets: means of the random effects, (n, k).
        start: η to start from, (n, k), beside the offset; several starts over the prior without.
        columns: visits to use, positions in the design's times; all of them if None.
        workers: threads; the result does not depend on it.
    """
    values = Values.of(model)
    times = np.asarray(model.design.times)
    times = times if columns is None else times[columns]
    eta, share = np.empty(offsets.shape), np.empty(len(offsets))
    for begin in range(0, len(offsets), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(offsets)))
        seen = np.asarray(observed[rows], np.float64)
        data = PopulationData.of_design(
            model.structural, seen if columns is None else seen[:, columns], times, model.design.doses
        )
        objective = OffsetObjective(model, data, workers=workers)
        objective.offsets = offsets[rows]
        starts = starting_points(values.omega) if start is None else np.zeros((1, offsets.shape[1]))
        if start is not None:
            objective.eta[:] = start[rows] - offsets[rows]
        share[rows] = objective.evaluate(values, starts)
        eta[rows] = offsets[rows] + objective.eta
    return Modes(eta, share)


@dataclass(frozen=True, eq=False)
class Informed:
    """η ~ N(g(x), Ω_r) given the features x.

    ``head`` is g, ``omega`` Ω_r (k, k), ``modes`` (n, k) those of the training subjects at the end, and ``objectives``
    the mean objective per subject of each round, cross-validated; the smallest is the one kept.
    """

    head: CrossFitted
    omega: FloatArray
    modes: FloatArray
    objectives: tuple[float, ...]

    def __call__(self, features: ArrayLike) -> FloatArray:
        """Predicted random effects (n, k) of features (n, F)."""
        return self.head.whole(features)


def one_step(
    model: PopulationModel,
    observed: NDArray[np.floating],
    features: NDArray[np.floating],
    modes: FloatArray,
    ids: ArrayLike,
    folds: int,
    workers: int = 1,
) -> CrossFitted:
    """Regression of the modes under the population's prior, centred and freed from their shrinkage.

    Args:
        model: the population model.
        observed: outcomes of the training subjects, (n, T).
        features: of their images, (n, F).
        modes: their empirical Bayes estimates, (n, k).
        ids: their ids, (n,), which decide the folds.
        folds: of the cross-fit.
        workers: threads.
    """
    total = np.asarray(model.omega, np.float64)
    head = _stretched(features, modes, total, ids, folds)
    if not _narrow(residual_omega(total, head.out_of_fold(features, fold_of(ids, folds))), total):
        return head
    return _weighted(model, observed, features, np.zeros_like(modes), modes, ids, folds, workers)


def fit_informed(
    model: PopulationModel,
    observed: NDArray[np.floating],
    features: NDArray[np.floating],
    modes: FloatArray,
    ids: ArrayLike,
    *,
    rounds: int = 6,
    folds: int = 5,
    workers: int = 1,
    report: Report | None = None,
) -> Informed:
    """Fit g and Ω_r to training subjects; see the module.

    Args:
        model: population model with its design: typical values, total Ω and residual error.
        observed: outcomes of the training subjects, (n, T).
        features: of their images, (n, F).
        modes: their empirical Bayes estimates under the model, (n, k).
        ids: their ids, (n,).
        rounds: most rounds after the one-step correction.
        folds: of the cross-fit.
        workers: threads.
        report: called with (round, mean objective).
    """
    total, fold = np.asarray(model.omega, np.float64), fold_of(ids, folds)
    head = one_step(model, observed, features, modes, ids, folds, workers)
    best: Informed | None = None
    objectives: list[float] = []
    for index in range(rounds + 1):
        mean = head.out_of_fold(features, fold)
        omega = residual_omega(total, mean)
        narrow = _narrow(omega, total)
        if narrow:
            omega = _refined_omega(model, observed, mean, modes, omega, workers)
        informed = replace(model, omega=tuple(map(tuple, omega.tolist())))
        found = informed_modes(informed, observed, mean, modes, workers=workers)
        objectives.append(float(found.objective.mean()))
        if report:
            report(index, objectives[-1])
        if best is not None and objectives[-1] > min(objectives[:-1]) - GAIN:
            break
        modes = found.eta
        best = Informed(head, omega, modes, ())
        if index < rounds and narrow:
            step = _weighted(informed, observed, features, mean, modes, ids, folds, workers)
            if np.isinf(step.penalties).all():  # nothing left that holds in other folds
                break
            head = head + step
        elif index < rounds:
            head = _centred(head + _stretched(features, modes - mean, omega, ids, folds), features)
    assert best is not None
    return replace(best, objectives=tuple(objectives))


def residual_omega(total: FloatArray, mean: FloatArray) -> FloatArray:
    """Ω less the covariance of g (n, k) over subjects, every direction at least the floor's share of Ω."""
    return _bounded(total - np.atleast_2d(np.cov(mean.T, bias=True)), total, FLOOR)


def _narrow(omega: FloatArray, total: FloatArray) -> bool:
    """Whether the image explains nearly all, in some direction."""
    return bool(np.linalg.eigvals(np.linalg.solve(total, omega)).real.min() < NARROW)


def _bounded(omega: FloatArray, total: FloatArray, floor: float) -> FloatArray:
    """``omega`` with its share of ``total`` between ``floor`` and 1 in every direction."""
    factor = np.linalg.cholesky(total)
    inverse = np.linalg.inv(factor)
    share, axes = np.linalg.eigh(inverse @ omega @ inverse.T)
    kept = factor @ ((axes * np.clip(share, floor, 1.0)) @ axes.T) @ factor.T
    return np.asarray((kept + kept.T) / 2)


def _refined_omega(
    model: PopulationModel,
    observed: NDArray[np.floating],
    mean: FloatArray,
    modes: FloatArray,
    omega: FloatArray,
    workers: int,
) -> FloatArray:
    """Ω_r after EM steps from ``omega`` with the cross-fitted mean held, on subjects evenly spaced among those given.

    A step takes the mean second moment of η - g, spread within subjects included. It is taken only where the objective
    falls. Residual errors whose objective has no analytic gradient keep ``omega``.
    """
    rows = np.unique(np.linspace(0, len(mean) - 1, min(EM_SUBJECTS, len(mean))).astype(int))
    data = PopulationData.of_design(
        model.structural, np.asarray(observed[rows], np.float64), model.design.times, model.design.doses
    )
    objective = OffsetObjective(model, data, "FOCE", workers=workers)
    objective.offsets = mean[rows]
    if not objective.analytic:
        return omega
    objective.eta[:] = modes[rows] - mean[rows]
    values, total, best, kept = Values.of(model), np.asarray(model.omega, np.float64), np.inf, omega
    for _ in range(EM_STEPS + 1):
        gradient = objective.gradient(Values(values.mu, omega, values.error))
        if not float(gradient.objective.mean()) < best:
            break
        best, kept = float(gradient.objective.mean()), omega
        omega = _bounded(omega + gradient.by_precision.mean(0), total, FLOOR / 10)
    return kept


def _stretched(
    features: NDArray[np.floating], distance: FloatArray, omega: FloatArray, ids: ArrayLike, folds: int
) -> CrossFitted:
    """Regression of distances from the prior's mean on features, centred, their shrinkage under Ω undone."""
    return _centred(cross_fit(features, distance, ids, folds).then(_stretch(omega, distance)), features)


def _weighted(
    model: PopulationModel,
    observed: NDArray[np.floating],
    features: NDArray[np.floating],
    mean: FloatArray,
    modes: FloatArray,
    ids: ArrayLike,
    folds: int,
    workers: int,
) -> CrossFitted:
    """What g must be moved by from ``mean`` (n, k), by regression of distances of modes weighted with the information
    (Ω + J⁻¹)⁻¹ that each subject's data hold on g: J of η, at its mode, Ω the prior's. Centred.
    """
    values, fold = Values.of(model), fold_of(ids, folds)
    precision = np.linalg.inv(values.omega)
    equations = WeightedEquations(features.shape[1], modes.shape[1], folds)
    for begin in range(0, len(modes), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(modes)))
        data = PopulationData.of_design(
            model.structural, np.asarray(observed[rows], np.float64), model.design.times, model.design.doses
        )
        objective = OffsetObjective(model, data, workers=workers)
        objective.offsets = mean[rows]
        distance = modes[rows] - mean[rows]
        information = precision - precision @ linearised_spread(objective, values, distance) @ precision
        score = np.asarray(distance @ precision, np.float64)
        equations.add(features[rows], score, information, fold[rows])
    return _centred(equations.solve(), features)


def _stretch(omega: FloatArray, distance: FloatArray) -> FloatArray:
    """Ω · Cov(distances)⁻¹ with its stretch bounded, (k, k): what undoes the shrinkage of modes on average."""
    factor = np.linalg.cholesky(omega)
    inverse = np.linalg.inv(factor)
    spread, axes = np.linalg.eigh(inverse @ np.atleast_2d(np.cov(distance.T, bias=True)) @ inverse.T)
    stretched = (axes * np.clip(1.0 / np.maximum(spread, 1e-12), 1.0, STRETCH)) @ axes.T
    return np.asarray(factor @ stretched @ inverse)


def _centred(head: CrossFitted, features: NDArray[np.floating]) -> CrossFitted:
    """Every fit shifted so that its mean over all training subjects is 0."""
    mean = np.zeros(features.shape[1])
    for begin in range(0, len(features), CHUNK):
        mean += np.asarray(features[begin : begin + CHUNK], np.float64).sum(0)
    mean /= len(features)

    def centre(fit: Linear) -> Linear:
        return Linear(-mean @ fit.weights, fit.weights)

    return CrossFitted(centre(head.whole), tuple(map(centre, head.without)), head.penalties)
