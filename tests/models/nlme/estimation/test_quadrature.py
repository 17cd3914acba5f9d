"""Adaptive Gauss-Hermite quadrature: rules, order 1 against Laplace, threads, limits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.estimation.quadrature import gauss_hermite, place, quadrature_fit
from image_longitudinal.models.nlme.estimation.sampled_likelihood import SampledLikelihood
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from tests.models.nlme.estimation.theophylline import ADDITIVE, DIAGONAL, theophylline

LINE = PopulationModel(
    "line",
    StructuralModel("line", (), ("level", "slope"), lambda t, x, p: {}, lambda t, x, p: p.level + p.slope * t),
    (Parameter("level", 1.0, "normal"), Parameter("slope", 0.5, "normal")),
    ((0.5, 0.1), (0.1, 0.2)),
    ResidualError("additive", additive=0.3),
    Design((0.0, 1.0, 2.0), ()),
)


def objectives(model, data, order):
    objective, coordinates = Objective(model, data), Coordinates(model, "full", ())
    search, psi = SampledLikelihood(objective, coordinates), coordinates.pack(coordinates.start)
    place(search, psi, order, starts=True)
    return search.individual_objectives(psi)[0]


def test_a_rule_is_exact_for_polynomials():
    z, log_weight = gauss_hermite(4, 2)
    weight = np.exp(log_weight - (z**2).sum(axis=1))
    # ∫ x⁶ y² exp(-x² - y²) = Γ(7/2) Γ(3/2)
    assert (weight * z[:, 0] ** 6 * z[:, 1] ** 2).sum() == pytest.approx(15 / 8 * np.pi / 2, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_linear_model_has_its_exact_likelihood(order):
    times, y = np.array([0.0, 1.0, 2.0]), np.array([[1.3, 1.2, 2.9], [0.2, 0.1, -0.5]])
    data = PopulationData.of_design(LINE.structural, y, times, [])
    design = np.stack([np.ones(3), times], axis=1)
    marginal = multivariate_normal(design @ [1.0, 0.5], design @ np.array(LINE.omega) @ design.T + 0.09 * np.eye(3))
    expected = -2 * marginal.logpdf(y) - 3 * np.log(2 * np.pi)
    np.testing.assert_allclose(objectives(LINE, data, order), expected, atol=1e-6)


def test_order_1_is_laplace_in_value_and_as_a_fit(reference_data):
    data = theophylline(reference_data, DIAGONAL)
    laplace = Objective(DIAGONAL, data, "Laplace").evaluate(PopulationParameters.of(DIAGONAL), np.zeros((1, 3)))
    # second derivatives are differences on both sides
    np.testing.assert_allclose(objectives(DIAGONAL, data, 1), laplace, atol=1e-4)
    fixed = ("ka", "v", "k", "residual")
    found = quadrature_fit(DIAGONAL, data, order=1, omega="diagonal", fixed=fixed, covariance="none")
    assert found.method == "AGQ"
    assert found.objective < laplace.sum()


def test_workers_change_nothing(reference_data):
    data = theophylline(reference_data, ADDITIVE)
    one, two = (quadrature_fit(ADDITIVE, data, order=3, omega="diagonal", n_threads=n) for n in (1, 2))
    assert one.converged, one.message
    assert one.objective == two.objective
    np.testing.assert_array_equal(one.estimates, two.estimates)


def test_many_subjects_begin_with_some_of_them(reference_data, monkeypatch):
    data = theophylline(reference_data, DIAGONAL)
    options = {"order": 5, "omega": "diagonal", "covariance": "gradient"}
    whole = quadrature_fit(DIAGONAL, data, **options)
    monkeypatch.setattr("image_longitudinal.models.nlme.estimation.quadrature.SAMPLE", 3)  # of twelve
    begun = quadrature_fit(DIAGONAL, data, **options)
    assert begun.converged, begun.message
    assert begun.objective == pytest.approx(whole.objective, abs=0.05)
    np.testing.assert_array_equal(quadrature_fit(DIAGONAL, data, n_threads=2, **options).estimates, begun.estimates)


def test_more_than_four_effects_and_no_nodes_are_refused():
    data = PopulationData.of_design(LINE.structural, np.ones((2, 3)), [0.0, 1.0, 2.0], [])
    with pytest.raises(ConfigError, match="order from 1 on"):
        quadrature_fit(LINE, data, order=0)
    names = tuple("abcde")
    five = replace(
        LINE,
        structural=StructuralModel("five", (), names, lambda t, x, p: {}, lambda t, x, p: p.a),
        parameters=tuple(Parameter(name, 1.0) for name in names),
        omega=tuple(map(tuple, np.eye(5).tolist())),
    )
    with pytest.raises(ConfigError, match="1 to 4 random effects"):
        quadrature_fit(five, PopulationData.of_design(five.structural, np.ones((2, 3)), [0.0, 1.0, 2.0], []))
