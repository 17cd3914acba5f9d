"""What generated images are good for: methods that learn the classes of scans from them, and are judged by them.

The recipe of a benchmark of generated radiographs (CheXGenBench: Dutt et al. 2025, arXiv 2505.10496): train on
generated and test on real images, the reverse, and see whether methods come in the same order. Generated images have no
class of their own; a teacher trained on real scans names them. So what a method learns from them is at most what the
teacher knows.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.resampling import REPLICATES, bootstrap_weights, interval
from image_longitudinal.models.registry.judgement import ClassRecall, Interval, MethodAccuracy, UtilityFigures

LEAST = 8  # images that a class has in every set, to be counted
BINS = 10  # of the calibration error
TEACHER = "logistic regression"


def methods(seed: int) -> dict[str, Any]:
    """Five classifiers of different kinds by name, untrained."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return {
        TEACHER: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
        "support vectors": make_pipeline(StandardScaler(), SVC()),
        "linear discriminant": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "random forest": RandomForestClassifier(200, random_state=seed),
        "nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(7)),
    }


class LabelledSet:
    """Images as features (n, F), the class of each (n,), and the patient of each (n,)."""

    def __init__(self, features: Matrix, labels: Sequence[str], patients: NDArray[np.str_]) -> None:
        self.features, self.labels, self.patients = features, np.asarray(labels), patients

    def rows(self, kept: NDArray[Any]) -> Self:
        """The images of these rows."""
        return type(self)(self.features[kept], self.labels[kept].tolist(), self.patients[kept])

    def of_classes(self, names: NDArray[np.str_]) -> Self:
        """Only images of these classes."""
        return self.rows(np.isin(self.labels, names))


def class_utility(train: LabelledSet, held_out: LabelledSet, generated: Matrix, seed: int) -> UtilityFigures | None:
    """Train and test five methods on real and on generated images (n, F).

    ``train`` are the scans that the image model was trained on; the teacher, too, learns from them. ``held_out`` are of
    other patients. Accuracies are means over classes ("balanced").

    Returns:
        None unless two classes have :data:`LEAST` images in each of the three sets.
    """
    from sklearn.base import clone

    classes = _common(train.labels, held_out.labels)
    if len(classes) < 2:
        return None
    train, held_out = train.of_classes(classes), held_out.of_classes(classes)
    named = methods(seed)[TEACHER].fit(train.features, train.labels).predict(generated)
    made = LabelledSet(generated, named.tolist(), np.arange(len(generated)).astype(str))
    classes = _common(named, held_out.labels)
    if len(classes) < 2:
        return None
    train, held_out, made = (one.of_classes(classes) for one in (train, held_out, made))
    order = np.random.default_rng(seed).permutation(len(made.labels))
    order = order[np.argsort(made.labels[order], kind="stable")]  # halves have as many of each class
    first, second = made.rows(order[::2]), made.rows(order[1::2])
    rows = []
    for name, method in methods(seed).items():

        def predicted(learnt: LabelledSet, new: LabelledSet, method: Any = method) -> Interval:
            found = clone(method).fit(learnt.features, learnt.labels).predict(new.features)
            return _accuracy(found, new, classes, seed)

        rows.append(
            MethodAccuracy(
                name=name, real=predicted(train, held_out), trained_on_generated=predicted(made, held_out),
                tested_on_generated=predicted(held_out, made), within_generated=predicted(first, second),
            )
        )  # fmt: skip
    of_real, of_made = (_teacher(one, held_out, seed) for one in (train, made))
    return UtilityFigures(
        methods=tuple(rows),
        rank_agreement=_rank_agreement(rows),
        calibration_error_real=calibration_error(of_real, held_out.labels, classes),
        calibration_error_generated=calibration_error(of_made, held_out.labels, classes),
        recalls=tuple(
            ClassRecall(
                label=str(label),
                real=_recall(of_real.argmax(1) == i, held_out, label, seed),
                trained_on_generated=_recall(of_made.argmax(1) == i, held_out, label, seed),
            )
            for i, label in enumerate(classes)
        ),
    )


def _common(labels: NDArray[np.str_], others: NDArray[np.str_]) -> NDArray[np.str_]:
    """The classes with enough images in both, sorted."""
    names = np.unique(labels)
    return names[[min((labels == name).sum(), (others == name).sum()) >= LEAST for name in names]]


def _teacher(learnt: LabelledSet, new: LabelledSet, seed: int) -> Matrix:
    """The teacher's kind of method, trained on ``learnt``: probabilities (n, K) of the classes, sorted by name."""
    return np.asarray(methods(seed)[TEACHER].fit(learnt.features, learnt.labels).predict_proba(new.features))


def _accuracy(found: NDArray[np.str_], truth: LabelledSet, classes: NDArray[np.str_], seed: int) -> Interval:
    """Balanced accuracy, with an interval by patients drawn again."""
    right = found == truth.labels
    weights = np.vstack([np.ones(len(right)), _weights(truth, seed)])
    by_class = [(weights[:, of] @ right[of]) / np.maximum(weights[:, of].sum(1), 1) for of in _members(truth, classes)]
    values = np.mean(by_class, axis=0)
    return interval(float(values[0]), values[1:], 0, 1)


def _recall(named: NDArray[np.bool_], truth: LabelledSet, label: str, seed: int) -> Interval:
    """Share of the images of a class that were named so, with an interval by patients drawn again."""
    of = truth.labels == label
    weights = np.vstack([np.ones(len(of)), _weights(truth, seed)])[:, of]
    values = (weights @ named[of]) / np.maximum(weights.sum(1), 1)
    return interval(float(values[0]), values[1:], 0, 1)


def _weights(truth: LabelledSet, seed: int) -> Matrix:
    return bootstrap_weights(truth.patients, REPLICATES, np.random.default_rng(seed))


def _members(truth: LabelledSet, classes: NDArray[np.str_]) -> list[NDArray[np.bool_]]:
    return [truth.labels == name for name in classes]


def _rank_agreement(rows: Sequence[MethodAccuracy]) -> float:
    """Kendall's tau of the methods' accuracies on real and within generated images; 0 if either has ties only."""
    tau = kendalltau([row.real.value for row in rows], [row.within_generated.value for row in rows]).statistic
    return float(np.nan_to_num(tau))


def calibration_error(probability: Matrix, labels: NDArray[np.str_], classes: NDArray[np.str_]) -> float:
    """Expected calibration error of the most probable class (Guo et al. 2017), in ten equal bins of its probability.

    ``probability`` (n, K) of ``classes`` (K,), true ``labels`` (n,).
    """
    confidence, right = probability.max(1), classes[probability.argmax(1)] == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, right - confidence, BINS)).sum() / len(labels))
