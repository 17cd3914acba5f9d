"""Shares of the diagnostic classes among generated images, by a classifier of the judge's features trained on scans."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.feature_measures import FOLDS, FeatureSpace, folds_of, ridge_scores
from image_longitudinal.models.quality.judge.resampling import Index, Vector, interval
from image_longitudinal.models.registry.judgement import ClassShare, PathologyFigures

LEAST = 8  # patients that a class has, to be counted


class LabelledScans:
    """Real images with classes and patients: ``index`` (n,) into the space, ``labels`` and ``patients`` (n,)."""

    def __init__(self, index: Index, labels: Sequence[str], patients: NDArray[np.str_]) -> None:
        self.index, self.labels, self.patients = index, np.asarray(labels), patients


def class_shares(
    space: FeatureSpace,
    train: LabelledScans,
    generated: Index,
    held_out: Index,
    generated_weights: Matrix,
    held_out_weights: Matrix,
) -> PathologyFigures | None:
    """Shares among generated and among held-out images, both by the classifier of the ``train`` scans.

    Its errors are the same for both, so the difference says what generated images lack. The weights are bootstrap
    samples, (replicates, n). None unless there are two classes of at least :data:`LEAST` patients.
    """
    names = [str(n) for n in np.unique(train.labels) if len(np.unique(train.patients[train.labels == n])) >= LEAST]
    if len(names) < 2:
        return None
    kept = np.isin(train.labels, names)
    index, labels, patients = train.index[kept], train.labels[kept], train.patients[kept]
    code = np.searchsorted(names, labels)
    target = np.eye(len(names))[code]
    fold = folds_of(patients, 0)
    own = np.zeros(len(index), np.int64)
    for one in range(FOLDS):
        if (fold == one).any() and (fold != one).any():
            inside = fold != one
            own[~inside] = ridge_scores(space.gram, index[inside], target[inside], index[~inside]).argmax(1)
    new = np.concatenate([generated, held_out])
    found = np.eye(len(names))[ridge_scores(space.gram, index, target, new).argmax(1)]
    made, real = found[: len(generated)], found[len(generated) :]
    shares = tuple(
        _share(name, made[:, i], real[:, i], generated_weights, held_out_weights) for i, name in enumerate(names)
    )
    return PathologyFigures(accuracy=float((own == code).mean()), shares=shares)


def _share(label: str, made: Vector, real: Vector, made_weights: Matrix, real_weights: Matrix) -> ClassShare:
    of_made, of_real = (w @ x / w.sum(1) for w, x in ((made_weights, made), (real_weights, real)))
    return ClassShare(
        label=label,
        generated=interval(float(made.mean()), of_made, 0, 1),
        real=interval(float(real.mean()), of_real, 0, 1),
        difference=interval(float(made.mean() - real.mean()), of_made - of_real, -1, 1),
    )
