"""Measures in a space of features, held against the unweighted functions, repeated images and a direct regression."""

import numpy as np
import pytest

from image_longitudinal.models.quality import fidelity
from image_longitudinal.models.quality.judge.feature_measures import (
    COMPONENTS,
    PENALTY,
    FeatureSpace,
    WeightedSet,
    discriminate,
    folds_of,
    frechet,
    kernel,
    neighbourhoods,
    ridge_scores,
)

REAL, MADE = np.arange(120), np.arange(120, 200)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 50)) @ rng.normal(size=(50, 50)) + 3
    features[MADE] = 0.8 * features[MADE] + 1
    return features


@pytest.fixture(scope="module")
def space(features: np.ndarray) -> FeatureSpace:
    return FeatureSpace.of(features, REAL)


def test_with_equal_weights_they_are_the_usual_measures(space: FeatureSpace, features: np.ndarray) -> None:
    real, made = WeightedSet.of(REAL), WeightedSet.of(MADE)
    assert space.low.shape == (200, COMPONENTS)
    assert frechet(space, made, real) == pytest.approx(fidelity.frechet_distance(space.low[MADE], space.low[REAL]))
    standard = (features - features[REAL].mean(0)) / features[REAL].std(0)
    assert kernel(space, made, real) == pytest.approx(fidelity.kernel_distance(standard[MADE], standard[REAL]))
    terms = neighbourhoods(space, MADE, REAL)
    precision, recall, density, coverage = fidelity.neighbourhood_fractions(space.low[REAL], space.low[MADE])
    found = [terms.inside.mean(), terms.recalled.mean(), terms.density.mean(), terms.covered.mean()]
    np.testing.assert_allclose(found, [precision, recall, density, coverage])


def test_a_weight_of_two_is_an_image_twice(space: FeatureSpace) -> None:
    weight = np.random.default_rng(1).integers(0, 3, len(MADE)).astype(float)
    twice, real = WeightedSet.of(np.repeat(MADE, weight.astype(int))), WeightedSet.of(REAL)
    assert frechet(space, WeightedSet(MADE, weight), real) == pytest.approx(frechet(space, twice, real))
    others = kernel(space, WeightedSet(MADE, weight), real)
    assert others < kernel(space, twice, real), "an image is not compared with itself, however often it is drawn"


def test_the_regression_is_that_of_centred_features(features: np.ndarray, space: FeatureSpace) -> None:
    train, test = np.arange(0, 150), np.arange(150, 200)
    target = np.random.default_rng(2).normal(size=(150, 2))
    standard = (features - features[REAL].mean(0)) / features[REAL].std(0) / np.sqrt(features.shape[1])
    centre = standard[train].mean(0)
    x, y = standard[train] - centre, target - target.mean(0)
    inner = x.T @ x
    direct = np.linalg.solve(inner + PENALTY * np.trace(inner) * np.eye(inner.shape[0]), x.T @ y)
    expected = (standard[test] - centre) @ direct + target.mean(0)
    np.testing.assert_allclose(ridge_scores(space.gram, train, target, test), expected, atol=1e-9)


def test_a_classifier_tells_apart_what_differs_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 30))
    features[:100, 4] += 2
    space, groups = FeatureSpace.of(features, np.arange(100, 400)), np.arange(400).astype(str)

    def auc(a: np.ndarray, b: np.ndarray) -> float:
        return discriminate(space, a, b, groups[a], groups[b], 0).auc(np.ones(len(a)), np.ones(len(b)))

    parts = np.arange(400).reshape(4, 100)
    assert auc(parts[0], parts[1]) > 0.85  # 0.92 for the one feature alone: Φ(2/√2)
    assert auc(parts[2], parts[3]) == pytest.approx(0.5, abs=0.13)  # three standard errors of 100 against 100


def test_a_patient_is_never_in_two_folds_and_never_identified() -> None:
    """Two images of each patient, alike: with one of them to learn from, the classifier would know the other."""
    rng = np.random.default_rng(4)
    features = np.repeat(rng.normal(size=(80, 60)), 2, axis=0)
    patients = np.repeat(np.arange(80), 2).astype(str)
    fold = folds_of(patients, 0)
    assert (fold[::2] == fold[1::2]).all()
    space = FeatureSpace.of(features, np.arange(160))
    a, b = np.arange(80), np.arange(80, 160)
    assert discriminate(space, a, b, patients[a], patients[b], 0).auc(np.ones(80), np.ones(80)) < 0.65
