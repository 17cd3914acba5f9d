"""Estimators of a mean treatment effect, and learners of individual effects from image features, with ridge regression.

Nuisances are cross-fitted: no subject's prediction comes from a fit that has seen the subject. The learners are those
of Künzel et al. 2019 (T, X) and Nie & Wager 2021 (R); AIPW is that of Robins et al. 1994.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from image_longitudinal.models.evaluation.ridge import CrossFitted, NormalEquations, cross_fit, fold_of, row_chunks

FloatArray = NDArray[np.float64]
FOLDS = 5
CLIP = 0.005  # estimated propensities are kept this far from 0 and 1
LEARNERS = ("T-learner", "X-learner", "R-learner")


@dataclass(frozen=True, eq=False)
class Treated:
    """Subjects of two arms.

    ``ids`` (n,); ``features`` (n, F) of images; ``treated`` (n,); ``outcome`` (n,); ``propensity`` (n,): true
    probability of treatment.
    """

    ids: NDArray[np.int64]
    features: NDArray[np.floating]
    treated: NDArray[np.bool_]
    outcome: FloatArray
    propensity: FloatArray


@dataclass(frozen=True)
class MeanEffect:
    """An estimate of the mean effect of treatment and its standard error."""

    estimator: str
    value: float
    error: float


def mean_effects(subjects: Treated) -> list[MeanEffect]:
    """The naive difference, IPW and AIPW with the true propensity, and AIPW with one estimated from the features."""
    a, y, n = subjects.treated, subjects.outcome, len(subjects.outcome)
    naive = y[a].mean() - y[~a].mean()
    error = np.sqrt(y[a].var() / a.sum() + y[~a].var() / (~a).sum())
    found = [MeanEffect("naive difference", float(naive), float(error))]
    found.append(_weighted("IPW, true propensity", subjects, subjects.propensity))
    with_features = _outcome_fits(subjects)
    estimated = logistic_out_of_fold(subjects)
    for name, e in (("AIPW, true propensity", subjects.propensity), ("AIPW, estimated propensity", estimated)):
        below, above = with_features
        score = above - below + a * (y - above) / e - ~a * (y - below) / (1 - e)
        found.append(MeanEffect(name, float(score.mean()), float(score.std() / np.sqrt(n))))
    return found


def _weighted(name: str, subjects: Treated, propensity: FloatArray) -> MeanEffect:
    """Inverse propensity weighting with normalised weights (Hájek); its error from the influence function."""
    a, y = subjects.treated, subjects.outcome
    influence, value = np.zeros(len(y)), 0.0
    for sign, weight in ((1.0, a / propensity), (-1.0, ~a / (1 - propensity))):
        mean = float(weight @ y / weight.sum())
        value += sign * mean
        influence += sign * weight * (y - mean) / weight.mean()
    return MeanEffect(name, value, float(influence.std() / np.sqrt(len(y))))


def _outcome_fits(subjects: Treated) -> tuple[FloatArray, FloatArray]:
    """Out-of-fold predictions of the outcome untreated and treated, (n,) each."""
    folds, found = fold_of(subjects.ids, FOLDS), []
    for flag in (False, True):
        fit = _fit(subjects, subjects.treated == flag, subjects.outcome)
        found.append(fit.out_of_fold(subjects.features, folds)[:, 0])
    return found[0], found[1]


def _fit(subjects: Treated, rows: NDArray[np.bool_], targets: FloatArray) -> CrossFitted:
    return cross_fit(subjects.features[rows], targets[rows, None], subjects.ids[rows], FOLDS)


def logistic_out_of_fold(subjects: Treated) -> FloatArray:
    """Propensities (n,) by ridge logistic regression on the features, each from a fit without the subject's fold."""
    folds, out = fold_of(subjects.ids, FOLDS), np.empty(len(subjects.ids))
    x = np.column_stack([np.ones(len(out)), _standardised(subjects.features)])
    for fold in range(FOLDS):
        rows = folds != fold
        weights = logistic(x[rows], subjects.treated[rows].astype(np.float64))
        out[~rows] = expit(x[~rows] @ weights)
    return np.clip(out, CLIP, 1 - CLIP)


def logistic(x: FloatArray, y: FloatArray, penalty: float = 1.0, steps: int = 25) -> FloatArray:
    """Weights (F,) of a logistic regression of y (n,) in {0, 1} on x (n, F), Newton's method; none on the first."""
    weights, ridge = np.zeros(x.shape[1]), penalty * np.eye(x.shape[1])
    ridge[0, 0] = 1e-9
    for _ in range(steps):
        p = expit(x @ weights)
        gradient = x.T @ (y - p) - ridge @ weights
        move = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, gradient)
        weights += move
        if np.abs(move).max() < 1e-8:
            break
    return weights


def _standardised(features: NDArray[np.floating]) -> FloatArray:
    values = np.asarray(features, np.float64)
    return (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)


def learn_effects(subjects: Treated, features: NDArray[np.floating]) -> dict[str, FloatArray]:
    """Predicted individual effects (m,) of new subjects with ``features`` (m, F), by learner.

    Args:
        subjects: training subjects; propensities are the true ones.
        features: of the subjects to predict.
    """
    a, y, folds = subjects.treated, subjects.outcome, fold_of(subjects.ids, FOLDS)
    fits = [_fit(subjects, a == flag, y) for flag in (False, True)]
    t_learner = fits[1].whole(features)[:, 0] - fits[0].whole(features)[:, 0]
    below, above = (fit.out_of_fold(subjects.features, folds)[:, 0] for fit in fits)
    imputed = np.where(a, y - below, above - y)
    of_untreated, of_treated = (_fit(subjects, a == flag, imputed).whole(features)[:, 0] for flag in (False, True))
    share = float(a.mean())
    x_learner = share * of_untreated + (1 - share) * of_treated
    return {"T-learner": t_learner, "X-learner": x_learner, "R-learner": _r_learner(subjects, features)}


def _r_learner(subjects: Treated, features: NDArray[np.floating]) -> FloatArray:
    """Effects that minimise Σ (y - m(x) - (a - e)·τ(x))², with the true propensity e."""
    folds = fold_of(subjects.ids, FOLDS)
    mean = cross_fit(subjects.features, subjects.outcome[:, None], subjects.ids, FOLDS)
    residual = subjects.outcome - mean.out_of_fold(subjects.features, folds)[:, 0]
    deviation = subjects.treated - subjects.propensity
    equations = NormalEquations(subjects.features.shape[1], 1, FOLDS, informed=True)
    for rows in row_chunks(len(residual)):
        score, information = (deviation * residual)[rows, None], (deviation**2)[rows, None, None]
        equations.add(subjects.features[rows], score, folds[rows], information)
    return equations.solve().whole(features)[:, 0]


def policy_gain(treat: NDArray[np.bool_], outcomes: FloatArray) -> float:
    """Mean outcome of treating those (n,) that a policy treats, minus that of the better arm; outcomes (n, 2)."""
    value = np.where(treat, outcomes[:, 1], outcomes[:, 0]).mean()
    return float(value - outcomes.mean(0).max())
