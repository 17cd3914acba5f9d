"""Residuals and predictive checks: what they are by definition, and how they come out under right and wrong models."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import kstest, norm

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import (
    npde,
    predictive_check,
    predictive_checks,
    replicates,
    residuals,
)
from image_longitudinal.models.nlme.estimation.ebes import individual_modes
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate


@pytest.fixture(scope="module")
def mild(original):
    """The original's model with similar subjects, where linearisation at the modes is good."""
    omega = tuple(map(tuple, (0.04 * np.eye(3)).tolist()))
    return replace(original, omega=omega, residual=ResidualError("combined2", additive=0.01, proportional=0.05))


@pytest.fixture(scope="module")
def population(mild):
    """100 subjects with two designs: the second has a delayed, larger dose and fewer visits."""
    rng = np.random.default_rng(11)
    parts = []
    for first, times, dose in ((0, mild.design.times, Dose(0.0, 1.0)), (60, (1.5, 2.0, 3.0, 5.0), Dose(1.0, 3.0))):
        ids = np.arange(first, first + (60 if first == 0 else 40))
        eta = 0.2 * rng.standard_normal((len(ids), 3))
        observed = observe(mild, simulate(mild, eta, times, [dose]), key=5, ids=ids)
        parts.append(PopulationData.of_design(mild.structural, observed, times, [dose], ids=ids))
    return PopulationData.concatenate(parts)


@pytest.fixture(scope="module")
def modes(mild, population):
    return individual_modes(mild, population).eta


def test_residuals_are_what_their_definitions_say(mild, population, modes):
    found = residuals(mild, population, modes)
    objective = Objective(mild, population)
    f, g = objective.predict(PopulationParameters.of(mild), modes)
    np.testing.assert_array_equal(found.pred, objective.predict(PopulationParameters.of(mild), 0 * modes)[0])
    np.testing.assert_array_equal(found.ipred, f)
    sd = np.sqrt(0.01**2 + (0.05 * f) ** 2)
    np.testing.assert_allclose(found.iwres, (population.observed - f) / sd, rtol=1e-12)
    for subject in (0, 75):  # one of each design
        rows = slice(population.row_start[subject], population.row_start[subject + 1])
        covariance = g[rows] @ np.asarray(mild.omega) @ g[rows].T + np.diag(sd[rows] ** 2)
        expected = np.linalg.solve(sqrtm(covariance), population.observed[rows] - (f[rows] - g[rows] @ modes[subject]))
        np.testing.assert_allclose(found.cwres[rows], expected, rtol=1e-6, atol=1e-8)


def test_residuals_are_standard_normal_under_the_right_model_and_not_under_a_wrong_one(mild, population, modes):
    right = residuals(mild, population, modes).cwres
    assert kstest(right, norm.cdf).pvalue > 0.01
    noisier = replace(mild, residual=ResidualError("combined2", additive=0.015, proportional=0.075))
    wrong = residuals(noisier, population, individual_modes(noisier, population).eta).cwres
    assert kstest(wrong, norm.cdf).pvalue < 1e-6


def test_log_normal_residuals_are_on_the_log_scale(mild, modes):
    times = mild.design.times[1:8]
    model = replace(mild, residual=ResidualError("log-normal", additive=0.1))
    f = simulate(model, modes[:5], times)
    data = PopulationData.of_design(model.structural, f * np.exp(0.1), times, model.design.doses)
    found = residuals(model, data, modes[:5])
    np.testing.assert_allclose(found.iwres, 1.0, rtol=1e-4)  # every observation one sd above; 1e-6 solvers


def test_prediction_distribution_errors_are_standard_normal_and_uncorrelated(mild, population):
    errors = npde(mild, population, n=300, seed=4)
    assert kstest(errors, norm.cdf).pvalue > 0.01
    full = errors[: 60 * 21].reshape(60, 21)
    correlation = np.corrcoef(full.T)[np.triu_indices(21, 1)]
    assert abs(correlation.mean()) < 0.03  # 210 pairs of 60 subjects: standard error about 0.01
    late = replace(mild, parameters=(replace(mild.parameters[0], typical=0.6), *mild.parameters[1:]))
    assert kstest(npde(late, population, n=300, seed=4), norm.cdf).pvalue < 1e-6


def test_replicates_depend_on_the_subject_alone(mild, population):
    whole = list(replicates(mild, population, 2, seed=9))
    part = list(replicates(mild, population.subset(58, 63), 2, seed=9))
    rows = slice(population.row_start[58], population.row_start[63])
    np.testing.assert_array_equal(np.array(whole)[:, rows], np.array(part))
    assert (whole[0] != whole[1]).all()
    with pytest.raises(ConfigError, match="more than 22"):
        npde(mild, population, n=20)


def test_a_predictive_check_counts_what_it_says(mild, population):
    check = predictive_check(mild, population, n=60, seed=2, bins=[1.25, 4.0])
    assert check.count.tolist() == [60 * 3, 60 * 5 + 40 * 3, 60 * 13 + 40]
    inside = (population.times >= 1.25) & (population.times < 4.0)
    np.testing.assert_allclose(check.observed[1], np.percentile(population.observed[inside], (5, 50, 95)))
    simulated = [np.percentile(one[inside], (5, 50, 95)) for one in replicates(mild, population, 60, seed=2)]
    np.testing.assert_allclose(check.low[1], np.percentile(simulated, 2.5, axis=0))
    np.testing.assert_allclose(check.high[1], np.percentile(simulated, 97.5, axis=0))


def test_bands_cover_the_right_model_and_not_a_wrong_one(mild, population):
    right = predictive_check(mild, population, n=100, seed=3)
    assert right.inside >= 0.85  # 95 % expected of some 60 correlated percentiles
    fast = replace(mild, parameters=(mild.parameters[0], replace(mild.parameters[1], typical=3.5), mild.parameters[2]))
    assert predictive_check(fast, population, n=100, seed=3).inside < 0.75  # (late outcomes are mere noise under both)


def test_prediction_correction_scales_by_the_bins_median_prediction(mild, population):
    check = predictive_check(mild, population, n=25, seed=3, bins=[1.25, 4.0], corrected=True)
    pred = Objective(mild, population).predict(PopulationParameters.of(mild), np.zeros((100, 3)))[0]
    inside = (population.times >= 1.25) & (population.times < 4.0)
    expected = population.observed[inside] * np.median(pred[inside]) / pred[inside]
    np.testing.assert_allclose(check.outcomes[inside], expected)
    np.testing.assert_allclose(check.observed[1], np.percentile(expected, (5, 50, 95)))
    at_zero = population.times == 0  # where the prediction is 0 nothing can be scaled
    np.testing.assert_array_equal(check.outcomes[at_zero], population.observed[at_zero])


def test_groups_are_checked_by_themselves_on_the_same_replicates(mild, population):
    arm = np.where(population.ids < 60, "early", "late")[population.subject_of_row]
    found = predictive_checks(mild, population, arm, n=40, seed=2, bins=[1.25, 4.0])
    assert list(found) == ["early", "late"]
    assert [check.count.sum() for check in found.values()] == [60 * 21, 40 * 4]
    inside = (arm == "late") & (population.times >= 1.25) & (population.times < 4.0)
    np.testing.assert_allclose(found["late"].observed[0], np.percentile(population.observed[inside], (5, 50, 95)))
    simulated = [np.percentile(one[inside], (5, 50, 95)) for one in replicates(mild, population, 40, seed=2)]
    np.testing.assert_allclose(found["late"].high[0], np.percentile(simulated, 97.5, axis=0))
    whole = predictive_check(mild, population, n=40, seed=2, bins=[1.25, 4.0])
    together = predictive_checks(mild, population, ["all"] * len(arm), n=40, seed=2, bins=[1.25, 4.0])["all"]
    np.testing.assert_array_equal(together.high, whole.high)


@pytest.mark.parametrize("bins", [0, [3.0, 1.0], [[1.0]]])
def test_unusable_bins_are_refused(mild, population, bins):
    with pytest.raises(ConfigError, match="bins"):
        predictive_check(mild, population, n=10, bins=bins)


def test_each_row_has_the_residual_error_of_its_endpoint(original):
    structural = replace(original.structural, endpoints=("one", "two"))
    log_error = ResidualError("log-normal", additive=0.3)
    model = replace(original, structural=structural, other_residuals=(log_error,))
    endpoint, f = np.array([0, 1, 0, 1, 0]), np.array([0.11, 0.25, 0.31, 0.35, 0.5])
    np.testing.assert_allclose(model.standard_deviation(f, endpoint), [0.01, 0.3, 0.01, 0.3, 0.01])
    assert model.logarithmic(endpoint).tolist() == [False, True, False, True, False]
    noise = np.array([1.0, -1.0, 0.0, 0.5, 2.0])
    expected = [0.12, 0.25 * np.exp(-0.3), 0.31, 0.35 * np.exp(0.15), 0.52]
    np.testing.assert_allclose(model.scatter(f, endpoint, noise), expected)


def test_censored_rows_have_no_residuals_and_the_others_keep_theirs(original):
    observed = np.abs(np.random.default_rng(1).normal(0.1, 0.02, (3, 4)))
    data = PopulationData.of_design(original.structural, observed, [0.5, 1.0, 1.5, 2.0], original.design.doses)
    last, eta = np.arange(12) % 4 == 3, np.zeros((3, 3))
    censored = replace(data, censored=last, observed=np.where(last, 0.05, data.observed))
    assert np.diff(censored.without_censored().row_start).tolist() == [3, 3, 3]
    with_limit = residuals(original, censored, eta)
    assert np.isnan(with_limit.cwres).tolist() == last.tolist()
    seen = replace(data, censored=last).without_censored()
    np.testing.assert_allclose(with_limit.cwres[~last], residuals(original, seen, eta).cwres)
    assert np.isnan(npde(original, censored, n=20)).tolist() == last.tolist()
    check = predictive_check(original, censored, n=20)
    assert check.low.min() >= 0.05  # what is below the limit is shown at it, observed or simulated
