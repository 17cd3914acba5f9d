"""Standard errors where the data say nothing about some of the estimates."""

import numpy as np
import pytest

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.results import fit_warnings
from image_longitudinal.models.nlme.estimation.uncertainty import corrected_score, covariance_of
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

FULL = np.array([[4.0, 1.0], [1.0, 3.0]])


def decay(*unused):
    """An exponential decay, with parameters that it does not depend on."""
    names = (*unused, "k", "a")
    structural = StructuralModel("decay", (), names, lambda t, x, p: {}, lambda t, x, p: p.a * s.exp(-p.k * t))
    parameters = tuple(Parameter(name, {"k": 0.3, "a": 10.0}.get(name, 1.0)) for name in names)
    omega = tuple(tuple(0.09 * (i == j) for j in range(len(names))) for i in range(len(names)))
    error = ResidualError("additive", additive=0.3)
    return PopulationModel("decay", structural, parameters, omega, error, Design((0.5, 1.0, 2.0, 4.0, 8.0), ()))


@pytest.mark.parametrize("kind", ["sandwich", "hessian", "gradient"])
@pytest.mark.parametrize("omega", ["diagonal", "full"])
def test_a_parameter_that_the_data_do_not_hold_is_named_and_the_others_keep_their_errors(kind, omega):
    ids = np.arange(40)
    eta = 0.3 * normals(stream_key(1, "eta"), ids, 2)
    observed = observe(decay(), simulate(decay(), eta), key=stream_key(1, "residual"), ids=ids)
    model = decay("ka")
    data = PopulationData.of_design(model.structural, observed, model.design.times, [])
    found = fit(model, data, omega=omega, covariance=kind)
    lost = {name for name in found.names if "ka" in name}
    assert {name for name, (_, error) in found.table.items() if np.isnan(error)} == lost
    assert "no standard error of ka, omega(eta_ka,eta_ka)" in found.message
    assert any("no standard error of ka, omega(eta_ka,eta_ka)" in warning for warning in fit_warnings(found))
    assert np.isfinite(found.condition_number)
    alone = fit(decay(), data, omega=omega, covariance=kind)
    for name, (value, error) in alone.table.items():
        # searches that end within 1e-4 of the minimum's objective: 1.4 % of a standard error; errors themselves 5 %
        assert found.table[name][0] == pytest.approx(value, abs=0.05 * error), name
        assert found.table[name][1] == pytest.approx(error, rel=0.05), name


def test_what_does_not_depend_on_what_is_lost_keeps_its_covariance():
    whole = np.zeros((3, 3))
    whole[:2, :2] = FULL
    # the second quantity depends on the third coordinate, about which nothing is known
    jacobian = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    natural = covariance_of(whole, whole, jacobian, "hessian")
    assert natural[0, 0] == pytest.approx(jacobian[0, :2] @ np.linalg.inv(FULL) @ jacobian[0, :2])
    assert np.isnan(natural[1:]).all()
    assert np.isnan(natural[:, 1:]).all()


def test_of_two_coordinates_that_are_known_as_a_sum_the_sum_alone_is_known():
    score = np.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    matrix = covariance_of(score, score, np.eye(3), "gradient")
    assert np.isnan(np.diag(matrix)).tolist() == [True, True, False]
    assert matrix[2, 2] == pytest.approx(0.5)
    total = covariance_of(score, score, np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), "sandwich")
    assert total[0, 0] == pytest.approx(0.25)  # of x + y, whose information is 4


def test_without_a_maximum_there_is_no_covariance():
    assert covariance_of(np.diag([1.0, -1.0]), np.eye(2), np.eye(2), "sandwich") is None
    assert covariance_of(np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2), "gradient") is None
    np.testing.assert_array_equal(covariance_of(FULL, FULL, np.eye(2), "hessian"), np.linalg.inv(FULL))


def test_the_corrected_sandwich_is_the_jackknife():
    # least squares: gradients x r and Hessians x x' / sigma²; the jackknife has closed form
    rng = np.random.default_rng(3)
    x = rng.standard_normal((15, 3))
    y = x @ [1.0, -2.0, 0.5] + rng.standard_normal(15) * (1.0 + x[:, 0] ** 2)
    estimate = np.linalg.lstsq(x, y, rcond=None)[0]
    gradients, hessians = -x * (y - x @ estimate)[:, None], x[:, :, None] * x[:, None, :]
    without = [np.linalg.lstsq(np.delete(x, i, 0), np.delete(y, i), rcond=None)[0] for i in range(15)]
    own = covariance_of(hessians.sum(axis=0), corrected_score(gradients, hessians), np.eye(3), "sandwich")
    moved = np.array(without) - estimate
    np.testing.assert_allclose(own, moved.T @ moved, rtol=1e-9)
    # the plain sandwich is smaller
    plain = covariance_of(hessians.sum(axis=0), gradients.T @ gradients, np.eye(3), "sandwich")
    assert (np.diag(plain) < np.diag(own)).all()


def test_a_subject_that_alone_holds_an_estimate_is_not_corrected_without_bound():
    hessians = np.array([[[1.0]], [[1e-9]]])  # leverage 1: (1 - 0.75)^-1 at most
    np.testing.assert_allclose(corrected_score(np.array([[0.1], [0.0]]), hessians), [[0.16]])
    # and where there is no minimum nothing is corrected
    np.testing.assert_allclose(corrected_score(np.array([[0.1]]), np.array([[[-1.0]]])), [[0.01]])
