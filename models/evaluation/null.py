"""The null check: with every image given to another subject, no predictor may find anything.

Subjects are dealt to images, not images to subjects: features are by far the larger, and stay in their file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling, estimate
from image_longitudinal.models.evaluation.informed import fit_informed, one_step
from image_longitudinal.models.evaluation.ridge import cross_fit
from image_longitudinal.models.evaluation.scores import r_squared, squares
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]

NULL_SHARE = 0.99  # of the bootstrap distribution, for an interval that decides on its own


def shuffled(
    model: PopulationModel,
    observed: NDArray[np.floating],
    train: NDArray[np.floating],
    modes: FloatArray,
    ids: NDArray[np.int64],
    test: NDArray[np.floating],
    *,
    truth: FloatArray,
    true: FloatArray,
    seed: int,
    rounds: int,
    folds: int,
    replicates: int,
    workers: int = 1,
) -> dict[str, Estimate]:
    """R² on test subjects, with 99 % interval, of every predictor when subjects are dealt to images at random.

    Args:
        model: the population model.
        observed: training outcomes, (n, T).
        train: features of the training images, (n, F).
        modes: empirical Bayes estimates of training subjects, (n, k).
        ids: their ids, (n,).
        test: features of the test images, (m, F).
        truth: true effects of test subjects, (m, k).
        true: true effects of training subjects, (n, k).
        seed: of the data set; decides the shuffle.
        rounds: most rounds of the image-informed model.
        folds: of the cross-fit.
        replicates: of the bootstrap.
        workers: threads.
    """

    order, place = _order(len(train), seed, "train"), _order(len(test), seed, "test")
    observed, modes, true, ids = np.asarray(observed)[order], modes[order], true[order], ids[order]
    predictors = {
        "regression": cross_fit(train, modes, ids, folds).whole,
        "informed": fit_informed(
            model, observed, train, modes, ids, rounds=rounds, folds=folds, workers=workers
        ).head.whole,
        "one_step": one_step(model, observed, train, modes, ids, folds, workers).whole,
        "oracle": cross_fit(train, true, ids, folds).whole,
    }
    resampling = Resampling(len(test), seed, replicates)
    found = {}
    for name, predictor in predictors.items():
        columns = squares(truth[place], predictor(test))
        found[name] = estimate(r_squared, columns, resampling.means(columns), NULL_SHARE)
    return found


def _order(n: int, seed: int, split: str) -> NDArray[np.int64]:
    return np.argsort(uniforms(stream_key(seed, "evaluation-shuffle", split), [0], n)[0], kind="stable")
