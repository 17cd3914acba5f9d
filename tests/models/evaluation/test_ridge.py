"""Ridge regression from normal equations: least squares where that is best, nothing where there is nothing."""

import numpy as np

from image_longitudinal.models.evaluation.ridge import NormalEquations, cross_fit, fold_of

RNG = np.random.default_rng
NOISE = RNG(5)
N, FOLD = 400, np.arange(400) % 5
X = NOISE.normal(2.0, 3.0, (N, 3))


def test_without_noise_it_is_least_squares() -> None:
    rng = RNG(0)
    x, weights = rng.normal(size=(400, 3)) * [1, 10, 0.1] + 5, rng.normal(size=(3, 2))
    y = x @ weights + [1, -2]
    fit = cross_fit(x, y, np.arange(400), 5)
    # the smallest penalty on offer is 1e-6 of the features' variance
    np.testing.assert_allclose(fit.whole(x), y, atol=1e-4)
    np.testing.assert_allclose(fit.whole.weights, weights, rtol=1e-4)


def test_chunks_change_nothing_and_each_fold_is_fitted_without_its_rows() -> None:
    rng = RNG(1)
    x, ids = rng.normal(size=(90, 4)), np.arange(100, 190)
    y = x[:, :2] + rng.normal(size=(90, 2))
    whole = cross_fit(x, y, ids, 3)
    parts = NormalEquations(4, 2, 3)
    for rows in (slice(0, 17), slice(17, 60), slice(60, 90)):
        parts.add(x[rows], y[rows], fold_of(ids[rows], 3))
    np.testing.assert_allclose(parts.solve().whole.weights, whole.whole.weights, atol=1e-12)
    fold = fold_of(ids, 3)
    for j, t in np.ndindex(3, 2):
        kept, scale = fold != j, x[fold != j].std(0)
        scaled, target = (x[kept] - x[kept].mean(0)) / scale, y[kept, t] - y[kept, t].mean()
        gram = scaled.T @ scaled / kept.sum() + (whole.penalties[t] + 1e-10) * np.eye(4)
        slope = np.linalg.solve(gram, scaled.T @ target / kept.sum()) / scale
        np.testing.assert_allclose(whole.without[j].weights[:, t], slope, rtol=1e-9)
    predicted = whole.out_of_fold(x, fold)
    np.testing.assert_allclose(predicted[fold == 1], whole.without[1](x[fold == 1]))


def test_noise_gets_no_slope_and_signal_does() -> None:
    rng = RNG(2)
    x = rng.normal(size=(300, 40))
    y = np.stack([rng.normal(size=300), x[:, 0] + 0.1 * rng.normal(size=300)], 1)
    fit = cross_fit(x, y, np.arange(300), 5)
    assert np.abs(fit.whole.weights[:, 0]).sum() < 0.35, "40 useless features, 300 rows: unpenalised it is about 2"
    assert fit.penalties[0] > fit.penalties[1]
    assert abs(fit.whole.weights[0, 1] - 1) < 0.05


def test_a_constant_feature_is_left_out() -> None:
    x = np.stack([np.ones(50), np.arange(50.0)], 1)
    fit = cross_fit(x, 2 * x[:, 1:], np.arange(50), 5)
    assert fit.whole.weights[0, 0] == 0
    np.testing.assert_allclose(fit.whole(x)[:, 0], 2 * x[:, 1], atol=1e-3)


def test_without_noise_any_information_finds_the_map() -> None:
    """Rows of rank one, each of which carries no information in some direction; a constant feature does no harm."""
    truth, intercept = NOISE.normal(size=(3, 2)), np.array([1.0, -2.0])
    root = NOISE.normal(size=(N, 2, 1)) * NOISE.uniform(0.01, 3, (N, 1, 1))
    information = root @ root.transpose(0, 2, 1)
    score = np.einsum("nkl,nl->nk", information, intercept + X @ truth)
    equations = NormalEquations(4, 2, 5, informed=True)
    equations.add(np.column_stack([X, np.full(N, 7.0)]), score, FOLD, information)
    found = equations.solve((1e-12,))
    for fit in (found.whole, *found.without):
        np.testing.assert_allclose(fit(np.column_stack([X, np.full(N, 7.0)])), intercept + X @ truth, atol=1e-6)
        assert not fit.weights[3].any()


def test_with_equal_information_it_is_the_plain_regression() -> None:
    y = X @ NOISE.normal(size=(3, 2)) + NOISE.normal(size=(N, 2))
    equations, information = NormalEquations(3, 2, 5, informed=True), np.tile(4 * np.eye(2), (N, 1, 1))
    for rows in (slice(0, 150), slice(150, N)):
        equations.add(X[rows], 4 * y[rows], FOLD[rows], information[rows])
    found = equations.solve((1e-3,))
    plain = NormalEquations(3, 2, 5)
    plain.add(X, y, FOLD)
    expected = plain.solve((1e-3,))
    np.testing.assert_allclose(found.whole(X), expected.whole(X), atol=1e-8)
    np.testing.assert_allclose(found.out_of_fold(X, FOLD), expected.out_of_fold(X, FOLD), atol=1e-8)


def test_with_information_noise_has_no_slope() -> None:
    equations = NormalEquations(3, 2, 5, informed=True)
    equations.add(X, NOISE.normal(size=(N, 2)), FOLD, np.tile(np.eye(2), (N, 1, 1)))
    found = equations.solve()
    # at most what noise alone gives a slope of three features: standard deviation √(3 / 400) = 0.09, twice that allowed
    assert found.whole(X).std(0).max() < 0.18
