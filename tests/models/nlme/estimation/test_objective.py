"""The population objective against published values, and its gradient against differences of itself."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
from scipy.integrate import quad

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import simulate

EXPONENTIAL = StructuralModel("wang-2007", (), ("ke",), lambda t, x, p: {}, lambda t, x, p: 10 * s.exp(-p.ke * t))
WANG = {  # minus twice the log-likelihood without N log 2π (Wang 2007, table 1)
    ("proportional", "FO"): 39.213, ("proportional", "FOCE"): 39.207, ("proportional", "FOCEI"): 39.458,
    ("additive", "FO"): 0.026, ("additive", "FOCE"): -2.059, ("additive", "FOCEI"): -2.059,
    ("log-normal", "FO"): 40.055, ("log-normal", "FOCE"): 40.039, ("log-normal", "FOCEI"): 40.039,
}  # fmt: skip


def wang_model(residual: str) -> PopulationModel:
    error = ResidualError(residual, **{"proportional" if residual == "proportional" else "additive": 0.1**0.5})
    return PopulationModel("wang-2007", EXPONENTIAL, (Parameter("ke", 0.5),), ((0.04,),), error, Design((0.0, 1.0), ()))


@pytest.fixture(scope="module")
def wang_data(reference_data):
    table = np.genfromtxt(reference_data / "Wang2007.csv", delimiter=",", skip_header=1)
    return PopulationData.of_design(EXPONENTIAL, table[:, 2].reshape(10, 2), [0.0, 1.0], [])


@pytest.mark.parametrize(("residual", "method"), WANG)
def test_the_nine_values_of_wang_2007(wang_data, residual, method):
    model = wang_model(residual)
    total = Objective(model, wang_data, method).evaluate(PopulationParameters.of(model)).sum()
    assert total == pytest.approx(WANG[residual, method], abs=1e-3)


def test_laplace_equals_the_integral_where_the_posterior_is_narrow(wang_data):
    # against quadrature: both are approximations, off by about 0.05 and 0.07 in 10 subjects
    model = wang_model("additive")
    quadrature = 0.0
    for y in wang_data.observed.reshape(-1, 2):

        def density(eta, y=y):
            f = 10 * np.exp(-0.5 * np.exp(eta) * np.array([0.0, 1.0]))
            return np.exp(-0.5 * (((y - f) ** 2 / 0.1 + np.log(0.1)).sum() + eta**2 / 0.04 + np.log(2 * np.pi * 0.04)))

        quadrature -= 2 * np.log(quad(density, -1.5, 1.5, epsabs=0, epsrel=1e-10, points=(-0.3, 0.0, 0.3))[0])
    laplace = Objective(model, wang_data, "Laplace").evaluate(PopulationParameters.of(model)).sum()
    foce = Objective(model, wang_data, "FOCE").evaluate(PopulationParameters.of(model)).sum()
    assert abs(laplace - quadrature) < 0.1
    assert abs(laplace - quadrature) < abs(foce - quadrature)


@pytest.fixture(scope="module")
def small(original):
    rng = np.random.default_rng(11)
    eta = 0.7 * rng.standard_normal((12, 3))
    observed = simulate(original, eta) + 0.02 * rng.standard_normal((12, 21))
    model = replace(original, omega=((0.6, 0.1, -0.1), (0.1, 0.5, 0.05), (-0.1, 0.05, 0.7)))
    model = replace(model, residual=ResidualError("combined2", additive=0.02, proportional=0.1))
    return model, PopulationData.of_design(original.structural, observed, original.design.times, original.design.doses)


def test_the_analytic_gradient_is_the_derivative_of_the_objective(small):
    model, data = small
    objective, values = Objective(model, data, tolerance=1e-10), PopulationParameters.of(model)
    gradient = objective.gradient(values)

    def slope(**moves):
        up, down = (replace(values, **{k: f(sign) for k, f in moves.items()}) for sign in (1, -1))
        return (objective.evaluate(up).sum() - objective.evaluate(down).sum()) / 2e-4

    # inner searches end 1e-6 from the mode and the differences are over 1e-4: 1e-2 on values of up to hundreds
    for j, unit in enumerate(1e-4 * np.eye(3)):
        expected = slope(mu=lambda sign, unit=unit: values.mu + sign * unit)
        assert gradient.by_mu.sum(axis=0)[j] == pytest.approx(expected, rel=1e-3, abs=0.03)
    for j, unit in enumerate(1e-4 * np.eye(3)[:2]):
        expected = slope(error=lambda sign, unit=unit: values.error * np.exp(sign * unit))
        assert gradient.by_error.sum(axis=0)[j] == pytest.approx(expected, rel=1e-3, abs=0.03)
    precision = np.linalg.inv(values.omega)
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        unit = np.zeros((3, 3))
        unit[a, b] = unit[b, a] = 1e-4
        expected = slope(omega=lambda sign, unit=unit: np.linalg.inv(precision + sign * unit))
        total = gradient.by_precision.sum(axis=0)
        assert (total[a, b] if a == b else 2 * total[a, b]) == pytest.approx(expected, rel=1e-3, abs=0.03)


def test_the_number_of_workers_changes_no_bit(small):
    model, data = small
    one, many = Objective(model, data), Objective(model, data, n_threads=3)
    first, second = one.gradient(PopulationParameters.of(model)), many.gradient(PopulationParameters.of(model))
    assert one.eta.tobytes() == many.eta.tobytes()
    assert first.objective.tobytes() == second.objective.tobytes()
    assert first.by_mu.tobytes() == second.by_mu.tobytes()


def test_a_mode_is_a_minimum_of_the_joint_density(small):
    model, data = small
    objective, values = Objective(model, data), PopulationParameters.of(model)
    joint = objective.find_modes(values)[0]
    rng = np.random.default_rng(0)
    modes = objective.eta.copy()
    precision = np.linalg.inv(values.omega)
    for _ in range(10):
        eta = modes + 0.05 * rng.standard_normal(modes.shape)
        f, _ = objective.predict(values, eta)
        sd = model.residual.standard_deviation(f)
        terms = 0.5 * (((data.observed - f) / sd) ** 2 + 2 * np.log(sd))
        nearby = terms.reshape(12, 21).sum(axis=1) + 0.5 * np.einsum("ij,jk,ik->i", eta, precision, eta)
        assert (nearby >= joint - 1e-6).all()


@pytest.mark.parametrize(
    ("residual", "method", "message"), [("log-normal", "FOCEI", "subject 8, time 1"), ("additive", "SAEM", "FOCEI")]
)
def test_unusable_observations_and_methods_are_refused(residual, method, message):
    data = PopulationData.of_design(EXPONENTIAL, [[1.0, 0.5], [1.0, 0.0]], [0.0, 1.0], [], ids=[7, 8])
    with pytest.raises(ConfigError, match=message):
        Objective(wang_model(residual), data, method)


def test_threads_that_need_a_kernel_at_once_all_get_the_whole_of_it():
    structural = StructuralModel("fading", (), ("k",), lambda t, x, p: {}, lambda t, x, p: s.exp(-p.k * t) + 0.1237)
    model = PopulationModel(
        "fading", structural, (Parameter("k", 0.3),), ((0.1,),), ResidualError("additive", additive=0.1),
        Design((1.0,), ()),
    )  # fmt: skip
    data = PopulationData.of_design(structural, np.ones((2, 1)), (1.0,), [])
    together = Barrier(4)

    def solver(_: int) -> object:
        together.wait()
        return Objective(model, data).solver

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(solver, range(4)))
    assert all(hasattr(one, "run") for one in found)
    assert len(set(map(id, found))) == 1
