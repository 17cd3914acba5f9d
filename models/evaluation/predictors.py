"""The sources of random effects that an evaluation compares: their names, how predictors are fitted, a null check."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.random import normals, stream_key, uniforms
from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling
from image_longitudinal.models.evaluation.image_informed import ImageInformedModel, TrainingSubjects, fit_image_informed
from image_longitudinal.models.evaluation.level_scores import HeldOutSubjects, pooled_r2, squares
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
Predictor = Callable[[ArrayLike], FloatArray]  # features (n, F) → random effects (n, k)

# In the order of the tables. The name is used in files and records, the label is for people.
LABELS = {
    "submission": "this submission",
    "true": "true effects",
    "regression": "(a) regression on EBEs",
    "resnet": "(a) ResNet18 on EBEs, end to end",
    "informed": "(b) image-informed model",
    "one_step": "(c) one-step correction",
    "oracle": "(d) oracle, trained on true effects",
    "ebe": "empirical Bayes (sees the outcomes)",
    "average": "average subject",
    "random": "random subject",
}
IMAGE_PREDICTORS = ("regression", "resnet", "informed", "one_step", "oracle")
REFERENCES = ("ebe", "average", "random")  # they do not see the image
NULL_COVERAGE = 0.99  # of the interval: it decides on its own, without correction for several predictors


def fit_predictors(
    model: PopulationModel, subjects: TrainingSubjects, eta: FloatArray, *, rounds: int, workers: int = 1
) -> tuple[dict[str, Predictor], ImageInformedModel]:
    """Every predictor from image features, by name, and the image-informed model behind two of them.

    Only the oracle uses ``eta`` (n, k), the true random effects. See :func:`fit_image_informed` for the other
    arguments.
    """
    informed = fit_image_informed(model, subjects, rounds=rounds, workers=workers)
    return {
        "regression": subjects.regression(subjects.modes).whole,
        "informed": informed.head,
        "one_step": informed.one_step,
        "oracle": subjects.regression(eta).whole,
    }, informed


def with_references(
    sources: Mapping[str, FloatArray], truth: HeldOutSubjects, omega: ArrayLike
) -> dict[str, FloatArray]:
    """Predicted random effects (n, k) by source, and those of the references; random subjects are N(0, Ω), Ω (k, k)."""
    factor = np.linalg.cholesky(np.asarray(omega, np.float64))
    drawn = normals(stream_key(truth.seed, "evaluation-random", truth.level), truth.ids, len(factor))
    references = (truth.modes, np.zeros_like(truth.eta), drawn @ factor.T)
    return {**sources, **dict(zip(REFERENCES, references, strict=True))}


def r2_of_shuffled_images(
    model: PopulationModel, subjects: TrainingSubjects, eta: FloatArray, test_features: NDArray[np.floating],
    test_eta: FloatArray, *, seed: int, rounds: int, replicates: int, workers: int = 1,
) -> dict[str, Estimate]:  # fmt: skip
    """R² on test subjects, with its 99 % interval, of every predictor after images are assigned to subjects at random.

    A null check: no predictor may find anything. Subjects are permuted, not images, as the features of images are by
    far the larger and stay in their file.

    Args:
        model: as ``subjects``, ``eta``, ``rounds`` and ``workers`` in :func:`fit_predictors`.
        test_features: features of the test images, (m, F).
        test_eta: true random effects of the test subjects, (m, k).
        seed: of the data set; decides the permutation.
        replicates: of the bootstrap.
    """
    train, test = (
        np.argsort(uniforms(stream_key(seed, "evaluation-shuffle", split), [0], n)[0], kind="stable")
        for split, n in (("train", len(eta)), ("test", len(test_eta)))
    )
    permuted = replace(
        subjects, ids=subjects.ids[train], observed=np.asarray(subjects.observed)[train], modes=subjects.modes[train]
    )
    predictors, _ = fit_predictors(model, permuted, eta[train], rounds=rounds, workers=workers)
    resampling = Resampling(len(test_eta), seed, replicates)
    found = {}
    for name, predictor in predictors.items():
        columns = resampling.of(squares(test_eta[test], predictor(test_features)))
        found[name] = columns.estimate(pooled_r2, coverage=NULL_COVERAGE)
    return found
