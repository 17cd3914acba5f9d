"""The map between z ~ N(0, I) and a mixture of Gaussians."""

import numpy as np
import pytest
import torch

from image_longitudinal.models.flattened.prior import GaussianMixture, KnotheRosenblatt, fit_components, fit_mixture


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    """Two clusters in three dimensions, far apart in the first and of different shape."""
    means = np.array([[-2.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    a, b = np.array([[1, 0.5, 0], [0.5, 1, 0.3], [0, 0.3, 0.5]]), np.diag([0.3, 2.0, 0.1])
    return GaussianMixture(np.array([0.3, 0.7]), means, np.stack([a, b]))


def _transport(mixture: GaussianMixture) -> KnotheRosenblatt:
    lowers = np.linalg.cholesky(mixture.covariances)
    return KnotheRosenblatt(*(torch.from_numpy(values) for values in (mixture.weights, mixture.means, lowers)))


def _draws(mixture: GaussianMixture, n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    which = random.choice(len(mixture.weights), n, p=mixture.weights)
    noise = random.standard_normal((n, mixture.means.shape[1]))
    return mixture.means[which] + np.einsum("nij,nj->ni", np.linalg.cholesky(mixture.covariances)[which], noise)


def test_coordinates_of_normal_latents_are_distributed_like_the_mixture(mixture: GaussianMixture) -> None:
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((200_000, 3)))
    x, drawn = _transport(mixture).to_coordinates(z).numpy(), _draws(mixture, 200_000)
    # Standard errors of means are below 0.005, of covariances below 0.02, of quantiles below 0.02: four of each.
    np.testing.assert_allclose(x.mean(0), drawn.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), np.cov(drawn.T), atol=0.08)
    shares = (0.05, 0.3, 0.7, 0.95)
    np.testing.assert_allclose(np.quantile(x, shares, 0), np.quantile(drawn, shares, 0), atol=0.08)


def test_latents_of_mixture_draws_are_standard_normal(mixture: GaussianMixture) -> None:
    z = _transport(mixture).to_normal(torch.from_numpy(_draws(mixture, 100_000))).numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.03)
    np.testing.assert_allclose((z**4).mean(0), 3, atol=0.15)


def test_the_map_is_inverted_to_the_last_digits_also_far_out(mixture: GaussianMixture) -> None:
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((2000, 3)))
    z[0], z[1], z[2] = 6.0, -6.0, torch.tensor([5.0, -5.0, 5.0])
    transport = _transport(mixture)
    error = (transport.to_normal(transport.to_coordinates(z)) - z).abs()
    assert error.quantile(0.999) < 1e-7
    assert error.max() < 0.1  # where a coordinate lies between two clusters, float64 cannot tell the next one's share


def test_the_map_increases_in_every_dimension_and_leaves_those_before_alone(mixture: GaussianMixture) -> None:
    transport, sweep = _transport(mixture), torch.linspace(-5, 5, 101, dtype=torch.float64)
    for k in range(3):
        z = torch.zeros(101, 3, dtype=torch.float64)
        z[:, k] = sweep
        x = transport.to_coordinates(z)
        assert (x[:, k].diff() > 0).all()
        assert (x[:, :k] == x[0, :k]).all()


def test_one_gaussian_is_its_cholesky_factor() -> None:
    covariance = np.array([[2.0, 0.6], [0.6, 1.0]])
    single = GaussianMixture(np.ones(1), np.array([[1.0, -1.0]]), covariance[None])
    z = torch.tensor([[0.3, -0.7], [2.0, 1.0]], dtype=torch.float64)
    expected = torch.from_numpy(single.means + z.numpy() @ np.linalg.cholesky(covariance).T)
    torch.testing.assert_close(_transport(single).to_coordinates(z), expected)


def test_a_row_is_the_same_bit_for_bit_in_every_batch(mixture: GaussianMixture) -> None:
    z = torch.from_numpy(np.random.default_rng(3).standard_normal((9, 3)))
    transport = _transport(mixture)
    alone = torch.cat([transport.to_coordinates(row[None]) for row in z])
    assert torch.equal(alone, transport.to_coordinates(z))


def test_the_number_of_components_is_found_by_patients_left_out(mixture: GaussianMixture) -> None:
    x = _draws(mixture, 400)
    fitted, scores = fit_mixture(x, np.arange(400) // 2, (1, 2, 3), 5, 0)
    assert len(fitted.weights) == max(scores, key=lambda count: scores[count]) >= 2
    assert scores[2] > scores[1] + 0.1  # nats per row: the clusters are far apart


def test_normal_data_get_one_component() -> None:
    x = np.random.default_rng(4).standard_normal((150, 6))
    fitted, _ = fit_mixture(x, np.arange(150), (1, 2, 4), 5, 0)
    assert len(fitted.weights) == 1


def test_the_likelihood_is_that_of_the_normal_distribution() -> None:
    x = np.random.default_rng(5).standard_normal((50, 2))
    standard = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    expected = (-0.5 * (x**2).sum(1) - np.log(2 * np.pi)).mean()
    assert standard.log_likelihood(x) == pytest.approx(expected)


def test_a_fit_depends_on_its_seed_alone() -> None:
    x = np.random.default_rng(6).standard_normal((60, 3))
    first, second = fit_components(x, 2, 7), fit_components(x, 2, 7)
    assert np.array_equal(first.means, second.means)
