"""Regression weighted with information matrices: exact where it can be written down, and honest about nothing."""

import numpy as np

from image_longitudinal.models.evaluation.ridge import NormalEquations
from image_longitudinal.models.evaluation.weighted import WeightedEquations

RNG = np.random.default_rng(5)
N = 400
X = RNG.normal(2.0, 3.0, (N, 3))
FOLD = np.arange(N) % 5


def test_without_noise_it_finds_the_map_whatever_the_information() -> None:
    """Rows of rank one, each of which says nothing in some direction; a constant feature does no harm."""
    truth, intercept = RNG.normal(size=(3, 2)), np.array([1.0, -2.0])
    root = RNG.normal(size=(N, 2, 1)) * RNG.uniform(0.01, 3, (N, 1, 1))
    information = root @ root.transpose(0, 2, 1)
    score = np.einsum("nkl,nl->nk", information, intercept + X @ truth)
    equations = WeightedEquations(4, 2, 5)
    equations.add(np.column_stack([X, np.full(N, 7.0)]), score, information, FOLD)
    found = equations.solve((1e-12,))
    for fit in (found.whole, *found.without):
        np.testing.assert_allclose(fit(np.column_stack([X, np.full(N, 7.0)])), intercept + X @ truth, atol=1e-6)
        assert not fit.weights[3].any()


def test_with_equal_information_it_is_the_plain_regression() -> None:
    y = X @ RNG.normal(size=(3, 2)) + RNG.normal(size=(N, 2))
    equations = WeightedEquations(3, 2, 5)
    equations.add(X[:150], 4 * y[:150], np.tile(4 * np.eye(2), (150, 1, 1)), FOLD[:150])
    equations.add(X[150:], 4 * y[150:], np.tile(4 * np.eye(2), (250, 1, 1)), FOLD[150:])
    found = equations.solve((1e-3,))
    plain = NormalEquations(3, 2, 5)
    plain.add(X, y, FOLD)
    expected = plain.solve((1e-3,))
    np.testing.assert_allclose(found.whole(X), expected.whole(X), atol=1e-8)
    np.testing.assert_allclose(found.out_of_fold(X, FOLD), expected.out_of_fold(X, FOLD), atol=1e-8)


def test_what_features_do_not_tell_has_no_slope() -> None:
    equations = WeightedEquations(3, 2, 5)
    equations.add(X, RNG.normal(size=(N, 2)), np.tile(np.eye(2), (N, 1, 1)), FOLD)
    found = equations.solve()
    # at most what noise alone gives a slope of three features: standard deviation √(3 / 400) = 0.09, twice that allowed
    assert found.whole(X).std(0).max() < 0.18
