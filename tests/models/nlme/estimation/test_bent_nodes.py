"""Nodes that follow a curved posterior: rule, inverse, and a ridge on which nodes by mode and Hessian fail."""

import numpy as np
import pytest
from scipy.special import logsumexp

from image_longitudinal.models.nlme.estimation.bent_nodes import BentGaussian, grid
from image_longitudinal.models.nlme.estimation.importance_sampling import log_normal

BENT = BentGaussian(
    center=np.array([[0.3, -0.2, 1.0], [0.0, 0.0, 0.0]]),
    axes=np.array([np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0], np.eye(3)]),
    width=np.array([1.2, 0.8]),
    bend=np.array([[[0.1, 0.0], [0.0, 0.2], [0.3, -0.2]], np.zeros((3, 2))]),
    factor=np.array([[[0.2, 0.0], [0.1, 0.1]], [[0.5, 0.0], [0.0, 0.4]]]),
    slope=np.array([0.3, 0.0]),
)


def log_density(eta):
    """Of :data:`BENT`, (n, S)."""
    x, volume = BENT.standard(eta)
    return log_normal(x, np.eye(3)) - volume


def test_standard_is_the_inverse_of_at():
    x = np.random.default_rng(1).standard_normal((2, 50, 3)) * 3.0  # beyond the farthest point, too
    eta, volume = BENT.at(x)
    back, again = BENT.standard(eta)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(again, volume, atol=1e-9)


def test_a_shape_integrates_its_own_density_with_any_order():
    for order in (2, 4):
        draws = BENT.placed(np.zeros((2, 3)), *grid(order, 3))
        total = logsumexp(log_density(draws.phi) - draws.log_q, axis=1) - np.log(draws.phi.shape[1])
        np.testing.assert_allclose(total, 0.0, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_gaussian_is_found_again(k):
    rng = np.random.default_rng(k)
    root = rng.standard_normal((k, k)) * 0.5 + np.eye(k)
    covariance, mean, omega = (root @ root.T)[None], rng.standard_normal((1, k)), 2.0 * np.eye(k)
    near = BentGaussian.straight(mean + 0.1, 1.2 * covariance, omega)
    draws = near.placed(np.zeros((1, k)), *grid(9, k))
    log_weight = log_normal(draws.phi - mean[:, None], covariance) - draws.log_q
    weights = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
    found = BentGaussian.fitted(draws.phi, weights, omega)
    nodes, logs = grid(5, k)
    draws = found.placed(np.zeros((1, k)), nodes, logs)
    log_weight = log_normal(draws.phi - mean[:, None], covariance) - draws.log_q
    np.testing.assert_allclose(log_weight - np.log(len(nodes)), logs[None], atol=2e-3)  # of an exact rule


def test_nodes_that_follow_a_ridge_integrate_it_where_nodes_at_the_mode_do_not():
    """The density of the first subject: its logarithm's integral is 0."""
    mode, omega = np.array([[0.3, -0.2, 1.0]] * 2), np.eye(3)
    hessian = np.array([np.diag([0.3, 0.1, 0.1])] * 2)
    shape, errors = BentGaussian.straight(mode, hessian, omega), []
    for _ in range(5):
        draws = shape.placed(np.zeros((2, 3)), *grid(7, 3))
        log_weight = log_density(draws.phi) - draws.log_q
        total = logsumexp(log_weight, axis=1)
        errors.append(float(np.abs(total - np.log(log_weight.shape[1]))[0]))
        shape = BentGaussian.fitted(draws.phi, np.exp(log_weight - total[:, None]), omega)
    assert errors[-1] < 0.01 < 0.1 < errors[0], errors


def test_some_subjects_are_taken_and_replaced():
    other = BentGaussian.straight(np.ones((2, 3)), np.array([np.eye(3)] * 2), np.eye(3))
    mixed = BENT.instead(other, np.array([False, True]))
    np.testing.assert_array_equal(mixed.center, [BENT.center[0], other.center[1]])
    np.testing.assert_array_equal(mixed.bend[0], BENT.bend[0])
    np.testing.assert_array_equal(
        BentGaussian.joined([BENT.take(np.array([0])), BENT.take(np.array([1]))]).axes, BENT.axes
    )
