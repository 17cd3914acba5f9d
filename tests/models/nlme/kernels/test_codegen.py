import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels import codegen, esdirk
from image_longitudinal.models.nlme.kernels.cached import cache_folder
from image_longitudinal.models.nlme.kernels.codegen import generate_source, generated_kernel, solver_digest
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.structural import StructuralModel


def ragged(model, parameters, times, doses, tolerance=1e-10, gradient=True):
    parameters = np.atleast_2d(np.asarray(parameters, dtype=float))
    data = PopulationData.of_design(model, np.zeros((len(parameters), len(times))), times, doses)
    out = np.empty(data.times.size)
    by_parameter = np.empty((len(out), parameters.shape[1] if gradient else 0))
    failed, _ = generated_kernel(model).run(parameters, data.arrays, 0, False, tolerance, out, by_parameter)
    assert failed == -1
    return out.reshape(len(parameters), -1), by_parameter.reshape(len(parameters), len(times), -1)


def decay(loss):
    """One state with a loss by (p, x)."""
    return StructuralModel("decay", ("a",), ("k",), lambda t, x, p: {"a": -loss(p, x)}, lambda t, x, p: x.a)


# every feature at once: three states, baseline, time in the equations, several functions, a switch
KITCHEN_SINK = StructuralModel(
    name="kitchen-sink",
    states=("depot", "central", "response"),
    parameters=("ka", "ke", "base", "emax"),
    rhs=lambda t, x, p: {
        "depot": -p.ka * x.depot,
        "central": p.ka * x.depot - p.ke * x.central,
        "response": 0.3 * (p.base * (1 + p.emax * x.central / (0.5 + x.central)) - x.response)
        + s.where(t > 2, 0.1, 0.0),
    },
    output=lambda t, x, p: s.log(s.exp(x.response) + s.sqrt(x.central + 1.0)) + 0.01 * p.base**2,
    initial=lambda p: {"response": p.base},
)
PARAMETERS = (1.2, 0.4, 3.0, 1.5)
TIMES = np.array([0.0, 0.5, 1.0, 2.0, 3.5, 6.0, 12.0])
DOSES = [Dose(0.0, 2.0, "depot"), Dose(3.0, 1.0, "central", duration=2.0)]


def reference(parameters):
    ka, ke, base, emax = parameters

    def rhs(t, x):
        infusion = 0.5 if 3.0 <= t < 5.0 else 0.0
        return [
            -ka * x[0],
            ka * x[0] - ke * x[1] + infusion,
            0.3 * (base * (1 + emax * x[1] / (0.5 + x[1])) - x[2]) + (0.1 if t > 2 else 0.0),
        ]

    x, out = np.array([2.0, 0.0, base]), {}
    for left, right in [(0, 2), (2, 3), (3, 5), (5, 12)]:  # (stop where the equations jump)
        span = (left + 1e-12, right - 1e-12)
        solution = solve_ivp(rhs, span, x, method="DOP853", rtol=1e-12, atol=1e-12, dense_output=True)
        for t in TIMES[(left <= TIMES) & (right >= TIMES)]:
            state = solution.sol(np.clip(t, *span))
            out[t] = np.log(np.exp(state[2]) + np.sqrt(state[1] + 1)) + 0.01 * base**2
        x = solution.y[:, -1]
    return np.array([out[t] for t in TIMES])


def test_a_generated_kernel_agrees_with_scipy_as_closely_as_its_tolerance_says():
    want, errors = reference(PARAMETERS), []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        got = ragged(KITCHEN_SINK, PARAMETERS, TIMES, DOSES, tolerance)[0][0]
        errors.append(np.abs(got - want).max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    np.testing.assert_allclose(got, want, atol=1e-8)


def test_sensitivities_equal_finite_differences():
    _, gradient = ragged(KITCHEN_SINK, PARAMETERS, TIMES, DOSES)
    for j, value in enumerate(PARAMETERS):
        step = np.zeros(4)
        step[j] = 1e-5 * value
        up, down = ragged(KITCHEN_SINK, [PARAMETERS + step, PARAMETERS - step], TIMES, DOSES)[0]
        # central differences of a solution that is itself good to a few 1e-11: that over the step of 1e-5
        np.testing.assert_allclose(gradient[0, :, j], (up - down) / (2 * step[j]), atol=2e-6)


def test_the_tableau_satisfies_the_order_conditions():
    a, b, c, embedded = esdirk.A, esdirk.B, esdirk.C, esdirk.B_EMBEDDED
    np.testing.assert_allclose(a.sum(axis=1), c, atol=1e-15)
    np.testing.assert_allclose(a @ c, c**2 / 2, atol=1e-15)  # stage order 2
    for weights, order in ((b, 4), (embedded, 3)):
        for q in range(1, order + 1):
            assert weights @ c ** (q - 1) == pytest.approx(1 / q, abs=1e-14)
    assert b @ a @ c**2 == pytest.approx(1 / 12, abs=1e-14)


def test_linear_equations_are_recognised():
    linear, times = decay(lambda p, x: p.k * x.a), np.array([0.0, 1.0, 5.0])
    assert "LINEAR, MODELLED = True" in generate_source(linear)
    assert "LINEAR, MODELLED = False" in generate_source(KITCHEN_SINK)
    got, gradient = ragged(linear, [0.3], times, [Dose(0.0, 2.0)])
    np.testing.assert_allclose(got[0], 2 * np.exp(-0.3 * times), atol=1e-8)
    np.testing.assert_allclose(gradient[0, :, 0], -2 * times * np.exp(-0.3 * times), atol=1e-7)


def test_a_closed_form_model_has_no_states():
    closed = StructuralModel("closed", (), ("k",), lambda t, x, p: {}, lambda t, x, p: 10 * s.exp(-p.k * t))
    times = np.array([0.0, 1.0, 2.0])
    got, gradient = ragged(closed, [[0.5], [0.7]], times, [])
    np.testing.assert_allclose(got, 10 * np.exp(-np.outer([0.5, 0.7], times)), rtol=1e-14)
    np.testing.assert_allclose(gradient[:, :, 0], -times * got, rtol=1e-14)


def test_the_digest_of_a_solver_is_that_of_its_equations_whatever_else_is_cached():
    first = solver_digest(decay(lambda p, x: p.k * x.a))
    assert solver_digest(decay(lambda p, x: 2.0 * p.k * x.a)) != first
    assert solver_digest(decay(lambda p, x: p.k * x.a)) == first
    assert solver_digest(get_model("depot-central-mm").structural) != first


def test_an_operation_without_compiled_form_is_refused():
    import pytensor.tensor as pt

    with pytest.raises(ConfigError, match="without a compiled form"):
        generate_source(decay(lambda p, x: pt.i0(p.k) * x.a))


def test_kernels_cached_by_different_processes_do_not_mix(tmp_path):
    # numba's symbols are numbered per process: two kernels compiled apart and loaded together must keep their own code
    script = """
import sys, numpy as np
from tests.models.nlme.kernels.test_codegen import Dose, decay, ragged
losses = {"one": (lambda p, x: p.k * x.a, np.exp(-0.5)), "two": (lambda p, x: p.k, 0.5)}
for name in sys.argv[1:]:
    value = ragged(decay(losses[name][0]), [0.5], [1.0], [Dose(0.0, 1.0)], gradient=False)[0][0, 0]
    assert abs(value - losses[name][1]) < 1e-8, (name, value)
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    for folder in cache_folder().glob(12 * "[0-9a-f]"):  # kernels that serve every model need not be compiled again
        shutil.copytree(folder, tmp_path / "image-longitudinal" / "nlme" / folder.name)
    for names in (["one"], ["two"], ["one", "two"]):
        subprocess.run([sys.executable, "-c", script, *names], check=True, env=environment)


def test_threads_that_want_a_kernel_at_once_get_a_whole_one():
    """A module is found by its name before it is whole: a second thread has to wait for the first."""
    source = f"import time\ntime.sleep(0.3)\nVALUE = {os.getpid()}\n"
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(lambda _: codegen._module(source, []), range(4)))
    assert {module.VALUE for module in modules} == {os.getpid()}
    assert len({id(module) for module in modules}) == 1
    (cache_folder() / f"{modules[0].__name__}.py").unlink()
