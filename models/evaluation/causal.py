"""Estimators of a mean treatment effect, and learners of individual effects from image features, with the lasso.

Features are many and few matter (squares and products of what is read from images), so that all regressions are
scikit-learn's lasso with its penalty by cross-validation, and propensities its logistic regression. Nuisances are
cross-fitted: no subject's prediction comes from a fit that has seen the subject. The learners are those of Künzel et
al. 2019 (T, X) and Nie & Wager 2021 (R); AIPW is that of Robins et al. 1994.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.ridge import fold_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
FOLDS = 5
PENALTIES = 30  # tried by the lasso, from the one that leaves no feature to a thousandth of it
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties tried by the logistic regression
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
    treated: BoolArray
    outcome: FloatArray
    propensity: FloatArray

    @property
    def weights(self) -> FloatArray:
        """Inverse probability (n,) of the arm that each subject takes: weighted by it, an arm stands for everyone."""
        return 1 / np.where(self.treated, self.propensity, 1 - self.propensity)


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
    found.append(_weighted("IPW, true propensity", subjects))
    below, above = (_out_of_fold(subjects, a == flag) for flag in (False, True))
    estimated = estimated_propensities(subjects)
    for name, e in (("AIPW, true propensity", subjects.propensity), ("AIPW, estimated propensity", estimated)):
        score = above - below + a * (y - above) / e - ~a * (y - below) / (1 - e)
        found.append(MeanEffect(name, float(score.mean()), float(score.std() / np.sqrt(n))))
    return found


def _weighted(name: str, subjects: Treated) -> MeanEffect:
    """Inverse propensity weighting with normalised weights (Hájek); its error from the influence function."""
    a, y = subjects.treated, subjects.outcome
    influence, value = np.zeros(len(y)), 0.0
    for sign, weight in ((1.0, a * subjects.weights), (-1.0, ~a * subjects.weights)):
        mean = float(weight @ y / weight.sum())
        value += sign * mean
        influence += sign * weight * (y - mean) / weight.mean()
    return MeanEffect(name, value, float(influence.std() / np.sqrt(len(y))))


def estimated_propensities(subjects: Treated) -> FloatArray:
    """Propensities (n,) by logistic regression on the features, each from a fit without the subject's fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds, out = fold_of(subjects.ids, FOLDS), np.empty(len(subjects.ids))
    tried = {"C": STRENGTHS}
    for fold in range(FOLDS):
        rows = folds != fold
        search = GridSearchCV(LogisticRegression(max_iter=300), tried, scoring="neg_log_loss", cv=3)
        model = make_pipeline(StandardScaler(), search)
        model.fit(subjects.features[rows], subjects.treated[rows])
        out[~rows] = model.predict_proba(subjects.features[~rows])[:, 1]
    return np.clip(out, CLIP, 1 - CLIP)


def learn_effects(subjects: Treated, features: NDArray[np.floating]) -> dict[str, FloatArray]:
    """Predicted individual effects (m,) of new subjects with ``features`` (m, F), by learner.

    Args:
        subjects: training subjects; propensities are the true ones, by which the T- and X-learner weigh subjects: they
            hold for everyone although what confounds the arms may not be in the image.
        features: of the subjects to predict.
    """
    a, y, x, weights = subjects.treated, subjects.outcome, subjects.features, subjects.weights
    below, above = (_lasso(x[a == flag], y[a == flag], weights[a == flag]) for flag in (False, True))
    imputed = np.empty(len(y))
    for flag, other in ((False, above), (True, below)):  # by fits to the other arm: none has seen the subject
        rows = a == flag
        imputed[rows] = (1 if flag else -1) * (y[rows] - other.predict(x[rows]))
    of_untreated, of_treated = (
        _lasso(x[a == flag], imputed[a == flag], weights[a == flag]).predict(features) for flag in (False, True)
    )
    share = float(a.mean())
    return {
        "T-learner": above.predict(features) - below.predict(features),
        "X-learner": share * of_untreated + (1 - share) * of_treated,
        "R-learner": _r_learner(subjects, features),
    }


def _r_learner(subjects: Treated, features: NDArray[np.floating]) -> FloatArray:
    """Effects τ that minimise Σ (y - m(x) - (a - e)·τ(x))², with the true propensity e."""
    residual = subjects.outcome - _out_of_fold(subjects, np.ones(len(subjects.ids), bool))
    deviation = subjects.treated - subjects.propensity
    return np.asarray(_lasso(subjects.features, residual / deviation, deviation**2).predict(features))


def _out_of_fold(subjects: Treated, rows: BoolArray) -> FloatArray:
    """Outcome (n,) predicted by fits to ``rows`` (n,), each without the subject's fold."""
    folds, out = fold_of(subjects.ids, FOLDS), np.empty(len(subjects.ids))
    for fold in range(FOLDS):
        fitted, here = rows & (folds != fold), folds == fold
        out[here] = _lasso(subjects.features[fitted], subjects.outcome[fitted]).predict(subjects.features[here])
    return out


def _lasso(features: NDArray[np.floating], targets: FloatArray, weights: FloatArray | None = None) -> "Pipeline":
    from sklearn.linear_model import LassoCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LassoCV(alphas=PENALTIES, cv=FOLDS))
    return model.fit(features, targets, lassocv__sample_weight=weights)


def policy_gain(treat: BoolArray, outcomes: FloatArray) -> float:
    """Mean outcome of treating those (n,) that a policy treats, minus that of the better arm; outcomes (n, 2)."""
    value = np.where(treat, outcomes[:, 1], outcomes[:, 0]).mean()
    return float(value - outcomes.mean(0).max())
