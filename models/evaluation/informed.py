"""The image-informed mixed-effects model: the image sets the mean of a subject's random effects, η ~ N(g(x), Ω_r).

Rounds of two steps: modes of η under the present N(g(x), Ω_r), then their regression on the image's features x. A mode
is shrunk towards g where a subject's data say little, so its distance from g is divided by its shrinkage first (exact
where everything is linear and normal). The first round, from g = 0, is the one-step correction.

What keeps it from diverging at weak association, where modes are not means: g is centred, Ω_r is the population's Ω
less the covariance of *cross-fitted* g (predictions of training subjects by fits that have not seen them), with a
floor, and the rounds end when the marginal likelihood of training subjects under their cross-fitted g stops improving.

Where the image explains nearly all, both steps leave linearisation behind: Ω_r goes to the maximum of that likelihood,
and the means of the individual posteriors, not their modes, give its gradient with respect to g, so that each subject
counts by what its data say of g, a matrix. An intercept of g is kept there until the end: it takes up what the typical
values of a fit are off by. Wherever the rounds end, the Ω_r that is left is the likeliest one given cross-fitted g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.models.evaluation.marginal import likeliest_omega, posterior_means, with_omega
from image_longitudinal.models.evaluation.offset import OffsetObjective, informed_modes
from image_longitudinal.models.evaluation.ridge import CHUNK, CrossFitted, Linear, cross_fit, fold_of
from image_longitudinal.models.evaluation.weighted import WeightedEquations
from image_longitudinal.models.nlme.estimation.importance_sampling import linearised_covariance
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
Report = Callable[[int, float], None]

FLOOR = 0.02  # of Ω in any direction: what no image is taken to explain before the likelihood says so
STRETCH = 4.0  # most by which a distance is stretched to undo its shrinkage
NARROW = 0.25  # share of Ω left, in some direction, below which the image explains nearly all
GAIN = 1e-4  # of the objective per subject: a smaller improvement ends the rounds


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
    start = np.zeros_like(modes)
    head = _stretched(features, start, modes, total, ids, folds)
    if not _narrow(residual_omega(total, head.out_of_fold(features, fold_of(ids, folds))), total):
        return head
    return _centred(_weighted(model, observed, features, start, modes, modes, ids, folds, workers), features)


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
    narrow = False
    for index in range(rounds + 1):
        mean = head.out_of_fold(features, fold)
        omega = residual_omega(total, mean)
        narrow = narrow or _narrow(omega, total)
        if narrow:
            begin = omega if best is None else best.omega
            omega = likeliest_omega(with_omega(model, begin), observed, mean, modes, total, workers=workers)
        informed = with_omega(model, omega)
        if narrow:
            found, center = posterior_means(informed, observed, mean, modes, workers=workers)
        else:
            found = informed_modes(informed, observed, mean, modes, workers=workers)
        objectives.append(float(found.objective.mean()))
        if report:
            report(index, objectives[-1])
        if best is not None and objectives[-1] > min(objectives[:-1]) - GAIN:
            break
        modes = found.eta
        best = Informed(head, omega, modes, ())
        if index < rounds and narrow:
            head = _weighted(informed, observed, features, mean, modes, center, ids, folds, workers)
        elif index < rounds:
            head = _stretched(features, mean, modes, omega, ids, folds)
    assert best is not None
    if not narrow:
        mean = best.head.out_of_fold(features, fold)
        omega = likeliest_omega(with_omega(model, best.omega), observed, mean, best.modes, total, workers=workers)
        best = replace(best, omega=omega)
    return replace(best, head=_centred(best.head, features), objectives=tuple(objectives))


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


def _stretched(
    features: NDArray[np.floating], mean: FloatArray, modes: FloatArray, omega: FloatArray, ids: ArrayLike, folds: int
) -> CrossFitted:
    """Regression on features of modes whose shrinkage towards their prior's mean under Ω is undone, centred."""
    distance = modes - mean
    return _centred(cross_fit(features, mean + distance @ _stretch(omega, distance).T, ids, folds), features)


def _weighted(
    model: PopulationModel,
    observed: NDArray[np.floating],
    features: NDArray[np.floating],
    mean: FloatArray,
    modes: FloatArray,
    center: FloatArray,
    ids: ArrayLike,
    folds: int,
    workers: int,
) -> CrossFitted:
    """g after a step of Fisher's scoring on the likelihood from ``mean`` (n, k).

    A subject's score is Ω⁻¹(E[η | y] - g), with ``center`` (n, k) for the expectation, and its information on g
    W = (Ω + J⁻¹)⁻¹: J that of its data on η, at its mode, Ω the prior's. What is regressed is g + W⁻¹ · score, as it
    stands for what the subject's data say whatever g they were seen with. Adding the regression of the score alone to
    each fit would not do: the score is at the prediction of another fit, and the fits' differences would grow.
    """
    values, fold = PopulationParameters.of(model), fold_of(ids, folds)
    precision = np.linalg.inv(values.omega)
    equations = WeightedEquations(features.shape[1], modes.shape[1], folds)
    for begin in range(0, len(modes), CHUNK):
        rows = slice(begin, min(begin + CHUNK, len(modes)))
        objective = OffsetObjective.of(model, observed[rows], mean[rows], workers=workers)
        spread = linearised_covariance(objective, values, modes[rows] - mean[rows])
        information = precision - precision @ spread @ precision
        score = np.asarray((center[rows] - mean[rows]) @ precision, np.float64)
        equations.add(features[rows], score + np.einsum("nab,nb->na", information, mean[rows]), information, fold[rows])
    return equations.solve()


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
