"""Ends of a search that are no minimum: saddles, plateaus, wrong gradients; and a fit that starts on a saddle."""

import numpy as np
import pytest

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.convergence import look_around
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def test_a_minimum_is_one():
    hessian = np.array([[40.0, 5.0], [5.0, 2.0]])
    found = look_around(lambda x: 0.5 * x @ hessian @ x, np.zeros(2), np.zeros(2), hessian)
    assert found.is_minimum


def test_the_lower_side_of_a_saddle_is_found_in_both_directions():
    def saddle(x):  # falls along (1, -1), but not along either coordinate
        return 10 * (x[0] + x[1]) ** 2 - (x[0] - x[1]) ** 2 + (x[0] - x[1]) ** 4

    hessian = np.array([[18.0, 22.0], [22.0, 18.0]])
    found = look_around(saddle, np.zeros(2), np.zeros(2), hessian)
    assert not found.is_minimum
    assert found.lower is not None
    assert found.lower[0] == pytest.approx(-found.lower[1], abs=1e-9)


def test_a_plateau_beyond_which_the_objective_falls_is_left():
    def plateau(x):
        return 5.0 * x[1] ** 2 - 3.0 * max(0.0, abs(x[0]) - 0.5)

    found = look_around(plateau, np.zeros(2), np.zeros(2), np.diag([0.0, 10.0]))
    assert found.lower is not None
    assert abs(found.lower[0]) > 0.5


def test_a_gradient_that_promises_more_names_its_coordinate():
    found = look_around(lambda x: float(5.0 * x @ x), np.zeros(2), np.array([0.0, 4.0]), 10.0 * np.eye(2))
    assert found.lower is None  # the objective does not fall: the gradient is wrong
    assert not found.is_minimum
    assert found.predicted_decrease == pytest.approx(0.8)
    assert found.steepest == 1


def test_points_that_cannot_be_evaluated_are_not_lower():
    def partly(x):
        if x[0] > 0.1:
            raise SimulationError("no solution")
        return float(x @ x)

    assert look_around(partly, np.zeros(1), np.zeros(1), np.array([[2.0]])).is_minimum


def test_a_fit_that_starts_on_a_saddle_leaves_it():
    """The best fit with one rate is a saddle of the model with two: they may become more different in either order."""

    def model(fast, slow, *, equal=False, a=5.0, omega=0.04, sd=0.2):
        structural = StructuralModel(
            "rates", (), ("a", "fast", "slow"), lambda t, x, p: {},
            lambda t, x, p: p.a * (s.exp(-p.fast * t) + s.exp(-(p.fast if equal else p.slow) * t)),
        )  # fmt: skip
        parameters = (Parameter("a", a), Parameter("fast", fast, random=False), Parameter("slow", slow, random=False))
        error = ResidualError("additive", additive=sd)
        return PopulationModel("rates", structural, parameters, ((omega,),), error, Design(TIMES, ()))

    true, ids = model(2.0, 0.1), np.arange(30)
    eta = 0.2 * normals(stream_key(1, "eta"), ids, 1)
    observed = observe(true, simulate(true, eta), key=stream_key(1, "residual"), ids=ids)
    data = PopulationData.of_design(true.structural, observed, TIMES, [])
    one = fit(model(0.4, 0.4, equal=True), data, fixed=("slow",), covariance="none").model
    rate = one.typical_values["fast"]
    a, sd = one.typical_values["a"], one.residual.additive
    saddle = model(rate, rate, a=a, omega=one.omega[0][0], sd=sd)
    right, found = fit(true, data, covariance="none"), fit(saddle, data, covariance="none")
    assert found.converged, found.message
    assert found.objective == pytest.approx(right.objective, abs=0.05)
    rates = sorted([found.model.typical_values["fast"], found.model.typical_values["slow"]])
    assert rates == pytest.approx([0.1, 2.0], rel=0.1)
