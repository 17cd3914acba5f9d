"""The figures hold what they should; how they look was judged by eye."""

import numpy as np
import pytest

from image_longitudinal.models.nlme.diagnostics import plots
from image_longitudinal.models.nlme.diagnostics.residuals import predictive_check, residuals
from image_longitudinal.models.nlme.estimation.fit import fit
from tests.models.nlme.estimation.test_fit import simulated


@pytest.fixture(scope="module")
def fitted(original):
    _, data = simulated(original, 6, seed=8)
    return fit(original, data, fixed=("ka", "imax", "ic50", "omega", "residual"), covariance="none"), data


def test_individual_fits_draw_each_subjects_own_curve(fitted):
    result, data = fitted
    axes = plots.individual_fits(result.model, data, result.eta, [4]).axes
    population, individual, points = axes[0].lines
    assert axes[0].get_title() == f"subject {data.ids[4]}"
    np.testing.assert_array_equal(points.get_ydata(), data.observed[4 * 21 : 5 * 21])
    at_visits = np.interp(data.times[:21], individual.get_xdata(), individual.get_ydata())
    expected = residuals(result.model, data, result.eta).ipred[4 * 21 : 5 * 21]
    np.testing.assert_allclose(at_visits, expected, atol=2e-3)  # straight lines between 200 points
    assert not np.allclose(population.get_ydata(), individual.get_ydata())
    assert len(plots.individual_fits(result.model, data, result.eta).axes) == 8  # 6 subjects in rows of 4


def test_every_figure_names_its_axes(fitted):
    result, data = fitted
    found = residuals(result.model, data, result.eta)
    labels = {axis.get_ylabel() for axis in plots.goodness_of_fit(data, found, found.cwres).axes}
    assert labels == {"observed", "CWRES", "|IWRES|", "NPDE"}
    assert plots.distribution_errors(data, found.cwres).axes[1].get_xlabel() == "time"
    check = predictive_check(result.model, data, n=20, corrected=True)
    assert plots.predictive_check_figure(check, "mg/L").axes[0].get_ylabel() == "prediction-corrected outcome (mg/L)"
    titles = [axis.get_title() for axis in plots.random_effects_figure(result).axes]
    assert titles[1] == f"eta_imax: shrinkage {result.shrinkage[1]:.0%}"
    assert [axis.get_ylabel() for axis in plots.pairs_of_effects(result).axes] == ["eta_imax", "", "eta_ic50", ""]


def test_a_profile_has_a_panel_per_estimate_with_a_curve_through_its_points():
    points = {"cl": [(1.0, 104.0), (2.0, 100.0), (4.0, 104.0)], "v": [(10.0, 100.0), (12.0, 101.0), (20.0, 900.0)]}
    figure = plots.profiles_figure(points, 100.0, 3.84)
    left, right = figure.axes
    assert [axis.get_xlabel() for axis in figure.axes] == ["cl", "v"]
    curve, dots, level = left.lines
    np.testing.assert_allclose(dots.get_ydata(), [4.0, 0.0, 4.0])
    assert level.get_ydata()[0] == 3.84
    x, y = curve.get_xdata(), curve.get_ydata()
    np.testing.assert_allclose(np.interp([1.5, 3.0], x, y), 1.0, atol=0.02)  # a parabola on each side
    assert len(right.lines[1].get_xdata()) == 2  # a point far above the level is left out
