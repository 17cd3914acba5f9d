"""Densities of observations against SciPy's, for every kind of residual error."""

import numpy as np
import pytest
from scipy.stats import lognorm, norm

from image_longitudinal.models.nlme.kernels.likelihood import subject_densities
from image_longitudinal.models.nlme.model.residual_error import KINDS, ResidualError

OBSERVED = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
PREDICTED = np.array([0.12, 0.25, 0.31, 0.35, 0.5])


def densities(kinds, error, endpoint, censored, starts, predicted=PREDICTED):
    out = np.empty(len(starts) - 1)
    rows = OBSERVED, np.array(endpoint), np.array(censored), np.array(starts)
    own = np.array([KINDS.index(kind) for kind in kinds])
    subject_densities(own, np.array(error, dtype=float), *rows, predicted, out, np.empty((0, 0)))
    return out


def derivatives(kind, error, censored):
    """Derivatives (5, 3) of each row's log density by the logarithms of the residual values."""
    by_error, starts = np.empty((5, 3)), np.arange(6)
    rows = OBSERVED, np.zeros(5, dtype=np.int64), np.array(censored), starts
    subject_densities(np.array([KINDS.index(kind)]), np.array(error), *rows, PREDICTED, np.empty(5), by_error)
    return by_error


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("log-normal", "likelihood")])
def test_a_row_has_the_normal_density_of_its_residual_error(kind):
    residual = ResidualError(kind, additive=0.02, proportional=0.1, power=0.7)
    found = densities([kind], [0.02, 0.1, 0.7], 5 * [0], 5 * [False], range(6))
    np.testing.assert_allclose(found, norm.logpdf(OBSERVED, PREDICTED, residual.standard_deviation(PREDICTED)))


def test_endpoints_and_censored_rows_each_in_their_own_way_summed_by_subject():
    rows = [
        norm.logpdf(0.1, 0.12, 0.01),
        lognorm.logpdf(0.2, 0.3, scale=0.25),
        norm.logcdf(0.3, 0.31, 0.01),
        lognorm.logpdf(0.4, 0.3, scale=0.35),
        norm.logpdf(0.5, 0.5, 0.01),
    ]
    kinds, error = ["additive", "log-normal"], [0.01, 0, 1, 0.3, 0, 1]
    how = [0, 1, 0, 1, 0], [False, False, True, False, False]
    np.testing.assert_allclose(densities(kinds, error, *how, range(6)), rows)
    np.testing.assert_allclose(densities(kinds, error, *how, [0, 2, 5]), [sum(rows[:2]), sum(rows[2:])])


def test_what_a_prediction_makes_impossible_has_no_probability():
    impossible = PREDICTED.copy()
    impossible[1], impossible[3] = 0.0, np.nan
    found = densities(["log-normal"], [0.3, 0, 1], 5 * [0], 5 * [False], range(6), impossible)
    assert np.isneginf(found).tolist() == [False, True, False, True, False]
    found = densities(["proportional"], [0, 0.1, 1], 5 * [0], 5 * [False], [0, 1, 4, 5], impossible)
    assert np.isneginf(found).tolist() == [False, True, False]


def test_the_prediction_of_an_endpoint_with_a_likelihood_is_its_log_density():
    found = densities(["additive", "likelihood"], [0.01, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1], 5 * [False], [0, 2, 5])
    normal = norm.logpdf(OBSERVED, PREDICTED, 0.01)
    np.testing.assert_allclose(found, [normal[0] + PREDICTED[1], PREDICTED[2] + normal[3] + PREDICTED[4]])


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_residual_values_are_those_of_differences(kind):
    error, censored = np.array([0.02, 0.1, 0.7]), [False, True, False, True, False]
    found = derivatives(kind, error, censored)
    for i in range(3):
        up, down = (error * np.exp(sign * 1e-5 * np.eye(3)[i]) for sign in (1, -1))
        change = densities([kind], up, 5 * [0], censored, range(6)) - densities(
            [kind], down, 5 * [0], censored, range(6)
        )
        np.testing.assert_allclose(found[:, i], change / 2e-5, rtol=1e-6, atol=1e-8)
