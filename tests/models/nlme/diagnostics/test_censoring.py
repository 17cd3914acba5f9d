"""Residual error by row: each endpoint has its own, and a censored row has no residual."""

from dataclasses import replace

import numpy as np
import pytest

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import npde, predictive_check, residuals
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.residual_error import ResidualError


@pytest.fixture
def two_endpoints(original):
    """A model with an additive and a log-normal endpoint, and five rows of which one is censored."""
    structural = replace(original.structural, endpoints=("one", "two"))
    log_error = ResidualError("log-normal", additive=0.3)
    model = replace(original, structural=structural, other_residuals=(log_error,))
    data = PopulationData.of_design(original.structural, [[0.1, 0.2, 0.3, 0.4, 0.5]], [1, 2, 3, 4, 5], [])
    data = replace(data, endpoint=np.array([0, 1, 0, 1, 0]), censored=np.array([False, False, True, False, False]))
    return model, data, np.array([0.11, 0.25, 0.31, 0.35, 0.5])


def test_each_row_has_the_residual_error_of_its_endpoint(two_endpoints):
    model, data, f = two_endpoints
    np.testing.assert_allclose(model.standard_deviation(f, data.endpoint), [0.01, 0.3, 0.01, 0.3, 0.01])
    assert model.logarithmic(data.endpoint).tolist() == [False, True, False, True, False]
    noise = np.array([1.0, -1.0, 0.0, 0.5, 2.0])
    np.testing.assert_allclose(
        model.scatter(f, data.endpoint, noise), [0.12, 0.25 * np.exp(-0.3), 0.31, 0.35 * np.exp(0.15), 0.52]
    )


def test_censored_rows_have_no_residuals_and_the_others_keep_theirs():
    model = get_model("depot-central-mm")
    observed = np.abs(np.random.default_rng(1).normal(0.1, 0.02, (3, 4)))
    data = PopulationData.of_design(model.structural, observed, [0.5, 1.0, 1.5, 2.0], model.design.doses)
    censored = replace(
        data, censored=np.arange(12) % 4 == 3, observed=np.where(np.arange(12) % 4 == 3, 0.05, data.observed)
    )
    assert np.diff(censored.without_censored().row_start).tolist() == [3, 3, 3]
    eta = np.zeros((3, 3))
    with_limit = residuals(model, censored, eta)
    assert np.isnan(with_limit.cwres).tolist() == censored.censored.tolist()
    np.testing.assert_allclose(
        with_limit.cwres[~censored.censored], residuals(model, data_without_last(data).without_censored(), eta).cwres
    )
    assert np.isnan(npde(model, censored, n=20)).tolist() == censored.censored.tolist()
    check = predictive_check(model, censored, n=20)
    assert check.low.min() >= 0.05  # what is below the limit is shown at it, observed or simulated


def data_without_last(data):
    return replace(data, censored=np.arange(12) % 4 == 3)
