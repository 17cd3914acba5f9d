"""Pareto shapes of importance weights against ArviZ, and of weights whose shape is known."""

import arviz as az
import numpy as np
import pytest

from image_longitudinal.models.nlme.estimation.pareto import pareto_shapes


def test_shapes_are_those_of_arviz():
    rng = np.random.default_rng(1)
    log_weights = np.stack([rng.standard_normal(1000), 2.0 * rng.standard_normal(1000), rng.exponential(0.9, 1000)])
    expected = np.asarray(az.psislw(log_weights)[1])
    np.testing.assert_allclose(pareto_shapes(log_weights), expected, atol=0.02)  # ArviZ takes one weight more or less


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_a_pareto_tail_has_its_shape(shape):
    rng = np.random.default_rng(2)
    log_weights = rng.exponential(shape, (20, 4000))  # a weight exceeds x with probability x^(-1 / shape)
    # 190 weights of the tail: the estimator's standard error is about (1 + k) / √190, a fifth of it in the mean of 20
    assert pareto_shapes(log_weights).mean() == pytest.approx(shape, abs=0.08)


def test_equal_weights_have_no_tail_and_few_say_nothing():
    assert pareto_shapes(np.zeros((1, 100)))[0] == -np.inf
    assert np.isnan(pareto_shapes(np.zeros((1, 10)))[0])
