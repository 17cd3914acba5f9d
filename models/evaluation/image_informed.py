"""The image-informed mixed-effects model: the image sets the mean of a subject's random effects, η ~ N(g(x), Ω_r).

It alternates modes of η under the current N(g(x), Ω_r) with their regression on the image's features x, after their
shrinkage towards g is undone (exact where everything is linear and normal). The first round, from g = 0, is the
one-step correction. Three things keep it from diverging at weak association, where modes are not means: g is centred;
Ω_r is the population's Ω less the covariance of *cross-fitted* g (predictions of training subjects by fits that have
not seen them), with a floor; and the rounds end when the marginal likelihood under cross-fitted g stops improving.

Where the image explains nearly all variance, both steps are too far from linear. There Ω_r is the maximum of that
likelihood, and posterior means, not modes, give its gradient with respect to g, weighted by each subject's information
matrix on g. An intercept of g is kept until the end: it absorbs errors of the fitted typical values. The final Ω_r is
always the maximum-likelihood one given cross-fitted g.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.ridge import (
    CrossFitted,
    Linear,
    NormalEquations,
    cross_fit,
    fold_of,
    row_chunks,
)
from image_longitudinal.models.evaluation.subject_likelihood import (
    OffsetObjective,
    informed_modes,
    likeliest_omega,
    posterior_means,
    with_omega,
)
from image_longitudinal.models.nlme.estimation.importance_sampling import linearised_covariance
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

FLOOR = 0.02  # of Ω in any direction: never attributed to the image before the likelihood supports it
MOST_UNSHRINKING = 4.0  # largest factor by which a distance from g is multiplied to undo its shrinkage
NEARLY_ALL = 0.25  # if less of Ω is left in some direction, the image explains nearly all variance
GAIN = 1e-4  # of the objective per subject: a smaller improvement ends the rounds


@dataclass(frozen=True, eq=False)
class TrainingSubjects:
    """What the predictors learn from: n subjects, F features of an image, T visits, k random effects.

    ``ids`` (n,) decide the ``folds`` of the cross-fit; ``features`` (n, F) and ``observed`` outcomes (n, T) may be
    views of files; ``modes`` (n, k) are the empirical Bayes estimates under the population.
    """

    ids: NDArray[np.int64]
    features: NDArray[np.floating]
    observed: NDArray[np.floating]
    modes: FloatArray
    folds: int = 5

    @property
    def fold(self) -> NDArray[np.int64]:
        """The fold of each subject, (n,)."""
        return fold_of(self.ids, self.folds)

    def regression(self, targets: FloatArray) -> CrossFitted:
        """Ridge regression of targets (n, k) on the features, cross-fitted."""
        return cross_fit(self.features, targets, self.ids, self.folds)


@dataclass(frozen=True, eq=False)
class ImageInformedModel:
    """η ~ N(g(x), Ω_r) given the features x.

    ``head`` is g, ``one_step`` the g of the one-step correction, ``omega`` Ω_r (k, k), and ``objectives`` the mean
    objective per subject of each round, cross-validated; the round with the smallest is kept.
    """

    head: Linear
    one_step: Linear
    omega: FloatArray
    objectives: tuple[float, ...]


def one_step_correction(model: PopulationModel, subjects: TrainingSubjects, workers: int = 1) -> CrossFitted:
    """Regression of the modes under the population's prior, centred, with their shrinkage undone."""
    total, start = np.asarray(model.omega, np.float64), np.zeros_like(subjects.modes)
    head = _unshrunk_regression(subjects, start, subjects.modes, total)
    if not _explains_nearly_all(residual_omega(total, head.out_of_fold(subjects.features, subjects.fold)), total):
        return head
    return _centred(_scoring_step(model, subjects, start, subjects.modes, subjects.modes, workers), subjects.features)


def fit_image_informed(
    model: PopulationModel, subjects: TrainingSubjects, *, rounds: int = 6, workers: int = 1
) -> ImageInformedModel:
    """Fit g and Ω_r to training subjects; see the module.

    Args:
        model: population model with its design: typical values, total Ω and residual error.
        subjects: the training subjects.
        rounds: most rounds after the one-step correction.
        workers: threads; the result does not depend on it.
    """
    total, observed, modes = np.asarray(model.omega, np.float64), subjects.observed, subjects.modes
    first = head = one_step_correction(model, subjects, workers)
    best: tuple[CrossFitted, FloatArray, FloatArray] | None = None  # g, Ω_r and modes
    objectives: list[float] = []
    nearly_all = False
    for index in range(rounds + 1):
        mean = head.out_of_fold(subjects.features, subjects.fold)
        omega = residual_omega(total, mean)
        nearly_all = nearly_all or _explains_nearly_all(omega, total)
        if nearly_all:
            begin = with_omega(model, omega if best is None else best[1])
            omega = likeliest_omega(begin, observed, mean, modes, total, workers=workers)
            informed = with_omega(model, omega)
            found, center = posterior_means(informed, observed, mean, modes, workers=workers)
        else:
            informed = with_omega(model, omega)
            found = informed_modes(informed, observed, mean, modes, workers=workers)
        objectives.append(float(found.objective.mean()))
        if best is not None and objectives[-1] > min(objectives[:-1]) - GAIN:
            break
        modes = found.eta
        best = head, omega, modes
        if index < rounds and nearly_all:
            head = _scoring_step(informed, subjects, mean, modes, center, workers)
        elif index < rounds:
            head = _unshrunk_regression(subjects, mean, modes, omega)
    assert best is not None
    head, omega, modes = best
    if not nearly_all:
        mean = head.out_of_fold(subjects.features, subjects.fold)
        omega = likeliest_omega(with_omega(model, omega), observed, mean, modes, total, workers=workers)
    return ImageInformedModel(_centred(head, subjects.features).whole, first.whole, omega, tuple(objectives))


def residual_omega(total: FloatArray, mean: FloatArray) -> FloatArray:
    """Ω less the covariance of g (n, k) over subjects, at least the fraction ``FLOOR`` of Ω in every direction."""
    factor = np.linalg.cholesky(total)
    inverse = np.linalg.inv(factor)
    residual = total - np.atleast_2d(np.cov(mean.T, bias=True))
    fractions, axes = np.linalg.eigh(inverse @ residual @ inverse.T)
    bounded = factor @ ((axes * np.clip(fractions, FLOOR, 1.0)) @ axes.T) @ factor.T
    return np.asarray((bounded + bounded.T) / 2)


def _explains_nearly_all(omega: FloatArray, total: FloatArray) -> bool:
    """Whether the image leaves little of Ω in some direction."""
    return bool(np.linalg.eigvals(np.linalg.solve(total, omega)).real.min() < NEARLY_ALL)


def _unshrunk_regression(
    subjects: TrainingSubjects, mean: FloatArray, modes: FloatArray, omega: FloatArray
) -> CrossFitted:
    """Centred regression on features of modes whose shrinkage towards their prior mean (n, k) under Ω is undone."""
    distance = modes - mean
    # Ω · Cov(distances)⁻¹ with bounded eigenvalues, (k, k), undoes the shrinkage on average
    factor = np.linalg.cholesky(omega)
    inverse = np.linalg.inv(factor)
    variances, axes = np.linalg.eigh(inverse @ np.atleast_2d(np.cov(distance.T, bias=True)) @ inverse.T)
    factors = np.clip(1.0 / np.maximum(variances, 1e-12), 1.0, MOST_UNSHRINKING)
    unshrinking = factor @ (axes * factors) @ axes.T @ inverse
    return _centred(subjects.regression(mean + distance @ unshrinking.T), subjects.features)


def _scoring_step(
    model: PopulationModel, subjects: TrainingSubjects, mean: FloatArray, modes: FloatArray, center: FloatArray,
    workers: int,
) -> CrossFitted:  # fmt: skip
    """g after a step of Fisher scoring on the likelihood from ``mean`` (n, k).

    A subject's score is Ω⁻¹(E[η | y] - g), with ``center`` (n, k) for the expectation, and its information on g is
    W = (Ω + J⁻¹)⁻¹, where J is the information of its data on η at its mode and Ω that of the prior. The targets of the
    regression are g + W⁻¹ · score, which do not depend on the g under which the data were seen. Adding a regression of
    the score alone to each fit would diverge: a score is at the prediction of another fit, and the differences between
    the fits would grow.
    """
    values, fold = PopulationParameters.of(model), subjects.fold
    precision = np.linalg.inv(values.omega)
    equations = NormalEquations(subjects.features.shape[1], modes.shape[1], subjects.folds, informed=True)
    for rows in row_chunks(len(modes)):
        objective = OffsetObjective.of(model, subjects.observed[rows], mean[rows], workers=workers)
        posterior = linearised_covariance(objective, values, modes[rows] - mean[rows])
        information = precision - precision @ posterior @ precision
        score = (center[rows] - mean[rows]) @ precision + np.einsum("nab,nb->na", information, mean[rows])
        equations.add(subjects.features[rows], score, fold[rows], information)
    return equations.solve()


def _centred(head: CrossFitted, features: NDArray[np.floating]) -> CrossFitted:
    """Every fit shifted so that its mean over all training subjects is 0."""
    chunks = row_chunks(len(features))
    mean = sum((np.asarray(features[rows], np.float64).sum(0) for rows in chunks), np.zeros(features.shape[1]))
    mean = mean / len(features)

    def centre(fit: Linear) -> Linear:
        return Linear(-mean @ fit.weights, fit.weights)

    return CrossFitted(centre(head.whole), tuple(map(centre, head.without)), head.penalties)
