"""The parameter table against what NONMEM prints for Theophylline, and against formulas."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from image_longitudinal.models.nlme.diagnostics.residuals import residuals
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.parameter_table import (
    covariance_for_intervals,
    fit_statistics,
    parameter_rows,
)
from tests.models.nlme.estimation.test_fit import THEOPHYLLINE, theophylline_data  # noqa: F401


@pytest.fixture(scope="module")
def found(theophylline_data):  # noqa: F811
    return fit(THEOPHYLLINE, theophylline_data, "FOCEI")


def test_every_estimate_has_its_row_with_an_interval_on_its_own_scale(found):
    rows = {row.name: row for row in parameter_rows(found)}
    assert tuple(rows) == found.names
    ka, variance = rows["ka"], rows["omega(eta_ka,eta_ka)"]
    assert ka.relative_error == pytest.approx(100 * ka.standard_error / ka.estimate)
    # log scale: the geometric mean of the interval is the estimate
    covariance_of_estimates, quantile = covariance_for_intervals(found)
    assert quantile == pytest.approx(t.ppf(0.975, 11))  # 12 subjects
    errors = dict(zip(found.names, np.sqrt(np.diag(covariance_of_estimates)), strict=True))
    for row in (ka, variance, rows["sigma2_additive"]):
        assert row.scale == "log"
        assert np.sqrt(row.lower * row.upper) == pytest.approx(row.estimate, rel=1e-12)
        half = quantile * errors[row.name] / row.estimate
        assert np.log(row.upper / row.estimate) == pytest.approx(half, rel=1e-12)
    assert variance.cv_percent == pytest.approx(100 * np.sqrt(np.exp(variance.estimate) - 1))
    assert variance.sd == pytest.approx(np.sqrt(variance.estimate))
    covariance = rows["omega(eta_v,eta_ka)"]
    size = np.sqrt(rows["omega(eta_v,eta_v)"].estimate * variance.estimate)
    assert covariance.correlation == pytest.approx(covariance.estimate / size)
    assert -size < covariance.lower < covariance.estimate < covariance.upper < size


def test_a_variance_that_is_hardly_known_has_no_negative_interval(found):
    place = found.names.index("omega(eta_k,eta_k)")
    covariance = found.covariance.copy()
    covariance[place, place] = (3.0 * found.estimates[place]) ** 2
    errors = np.sqrt(np.diag(covariance))
    vague = replace(found, covariance=covariance, standard_errors=errors, interval_covariance=covariance)
    row = parameter_rows(vague)[place]
    assert 0.0 < row.lower < row.estimate < row.upper


def test_an_interval_without_correction_is_that_of_the_standard_error(found):
    row = parameter_rows(replace(found, interval_covariance=None))[0]
    assert np.log(row.upper / row.estimate) == pytest.approx(norm.ppf(0.975) * row.standard_error / row.estimate)


def test_a_quantity_that_the_data_do_not_hold_costs_only_itself_its_error(found):
    errors = found.standard_errors.copy()
    errors[0] = np.nan
    first, *others = parameter_rows(replace(found, standard_errors=errors))
    assert (first.standard_error, first.lower, first.upper, first.relative_error) == (None,) * 4
    assert all(row.standard_error is not None and row.lower is not None for row in others)


def test_figures_of_the_whole_fit(found, theophylline_data):  # noqa: F811
    iwres = residuals(found.model, theophylline_data, found.eta).iwres
    own = fit_statistics(found, theophylline_data, iwres)
    # NONMEM 7.4.1's OFV is 92.830869; with the constant of 132 observations and 11 parameters
    assert own.objective == pytest.approx(92.830869, abs=1e-3)
    assert own.with_constant == pytest.approx(92.830869 + 132 * np.log(2 * np.pi), abs=1e-3)
    assert own.aic == pytest.approx(own.with_constant + 22)
    assert own.bic == pytest.approx(own.with_constant + 11 * np.log(132))
    np.testing.assert_allclose([100 * value for value in own.eta_shrinkage.values()], [1.33, 1.62, 5.02], atol=0.05)
    assert own.epsilon_shrinkage["outcome"] == pytest.approx(1 - iwres.std(ddof=1))
    assert own.condition_number == pytest.approx(own.eigenvalues[-1] / own.eigenvalues[0], rel=1e-6)
    assert sum(own.eigenvalues) == pytest.approx(11)  # the trace of a correlation matrix
    bar = own.eta_bar["eta_ka"]
    assert bar.mean == pytest.approx(found.eta[:, 0].mean())
    assert bar.p == pytest.approx(2 * norm.sf(abs(bar.mean) / bar.standard_error))
    assert bar.p > 0.5  # no bias is known of this fit
