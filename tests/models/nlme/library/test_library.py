"""Library models against closed forms, and a user's own model in a file."""

import textwrap

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme import library
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel
from image_longitudinal.models.nlme.library import get_model, load_models, load_named
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import simulate, simulate_individuals
from tests.models.nlme.compiled_functions import from_python

TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 48.0])


def typical(name, doses, times=TIMES):
    model = get_model(name)
    return simulate(model, np.zeros((1, model.n_random_effects)), times, doses)[0]


def by_scipy(name, start, times):
    """Right-hand side of a library model and its states (n, T): for these models no kernel needs to be compiled."""
    model = get_model(name)
    rhs, p = from_python(generated_kernel(model.structural).rhs), np.append(list(model.typical_values.values()), 0.0)

    def slope(t, x):
        out = np.empty(len(x))
        rhs(t, x, p, out)
        return out

    options = {"method": "LSODA", "t_eval": times, "rtol": 1e-9, "atol": 1e-9}
    return slope, solve_ivp(slope, (0.0, times[-1]), start, **options).y


def test_one_compartment_oral_bolus_and_infusion_are_the_textbook_formulas():
    ka, k, v = 1.0, 2.0 / 20.0, 20.0
    # 1e-6 of the largest concentration (5 mg/L)
    oral = 100 / v * ka / (ka - k) * (np.exp(-k * TIMES) - np.exp(-ka * TIMES))
    np.testing.assert_allclose(typical("one-compartment", [Dose(0, 100, "depot")]), oral, atol=5e-6)
    bolus = 100 / v * np.exp(-k * TIMES)
    np.testing.assert_allclose(typical("one-compartment", [Dose(0, 100, "central")]), bolus, atol=5e-6)
    during = 25 / (k * v) * (1 - np.exp(-k * np.minimum(TIMES, 4.0)))
    infusion = during * np.exp(-k * np.maximum(TIMES - 4.0, 0.0))
    np.testing.assert_allclose(typical("one-compartment", [Dose(0, 100, "central", duration=4.0)]), infusion, atol=5e-6)


def test_two_compartment_bolus_is_biexponential():
    cl, v, q, v2 = 2.0, 20.0, 3.0, 40.0
    k, k12, k21 = cl / v, q / v, q / v2
    half, product = (k + k12 + k21) / 2, k * k21
    alpha, beta = half + np.sqrt(half**2 - product), half - np.sqrt(half**2 - product)
    exact = 100 / v * ((alpha - k21) * np.exp(-alpha * TIMES) + (k21 - beta) * np.exp(-beta * TIMES)) / (alpha - beta)
    _, course = by_scipy("two-compartment", [0.0, 100.0, 0.0], TIMES)
    np.testing.assert_allclose(course[1] / v, exact, atol=1e-6)


def test_saturable_elimination_from_a_bolus_is_lambert_w():
    from scipy.special import lambertw

    vmax, km, v = 10.0, 2.0, 20.0
    exact = km * lambertw(5 / km * np.exp((5 - vmax / v * TIMES) / km)).real
    np.testing.assert_allclose(typical("one-compartment-mm", [Dose(0, 100, "central")]), exact, atol=5e-6)


@pytest.mark.parametrize(("number", "direction"), [(1, -1), (2, 1), (3, 1), (4, -1)])
def test_indirect_responses_start_at_baseline_move_the_right_way_and_return(number, direction):
    slope, states = by_scipy(f"indirect-response-{number}", [100.0, 0.0, 50.0], np.append(TIMES, 240.0))
    course = states[2]
    assert course[0] == pytest.approx(50.0, abs=1e-9)
    assert (direction * (course[1:-1] - 50.0) > 0).all()
    assert course[-1] == pytest.approx(50.0, abs=0.01)
    assert slope(0.0, np.array([0.0, 0.0, 50.0]))[2] == 0.0  # without drug


USER_FILE = textwrap.dedent(str(library.__doc__).split("::\n", 1)[1].split("\n\nLag times", 1)[0])


def test_a_users_own_file_adds_a_model_by_name(tmp_path):
    (tmp_path / "growth.py").write_text(USER_FILE)
    load_named(f"{tmp_path / 'growth.py'}:gompertz-growth")
    model = get_model(f"{tmp_path / 'growth.py'}:gompertz-growth")
    assert get_model("gompertz-growth") is get_model(f"{tmp_path / 'growth.py'}:gompertz-growth") is model
    got = simulate(model, np.zeros((1, 2)))[0]
    exact = 50 * np.exp(np.log(1 / 50) * np.exp(-0.3 * np.array(model.design.times)))
    np.testing.assert_allclose(got, exact, rtol=2e-6)


def test_looking_a_model_up_runs_no_file(tmp_path):
    """A data set may name any file; only the user's own naming of it runs it."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + USER_FILE.replace("gompertz", "evil"))
    name = f"{tmp_path / 'evil.py'}:evil-growth"
    with pytest.raises(ConfigError, match=r"does not run because data name it .*evil\.py.*--trust FILE"):
        get_model(name)
    assert not (tmp_path / "ran").exists()
    load_models(tmp_path / "evil.py")
    assert get_model(name).name == "evil-growth"
    assert get_model("/where/it/was/made/evil.py:evil-growth") is get_model(name)
    assert (tmp_path / "ran").exists()


def test_emax_and_its_limits():
    model = get_model("emax")
    concentrations = np.array([0.0, 2.0, 1e9])  # none, EC50, all there can be
    got = simulate(model, np.zeros((3, 3)), [0.0], [], covariates={"concentration": concentrations})[:, 0]
    np.testing.assert_allclose(got, [10.0, 30.0, 50.0], rtol=1e-9)


def test_visual_acuity_falls_without_treatment_and_rises_with_it_less_so_with_age():
    model = get_model("visual-acuity-age")
    ages = {"age": [77.0, 65.0, 85.0]}
    kout, equilibrium = 0.19 / 365.25, 11.0
    times = np.array(model.design.times)
    untreated = equilibrium + (54 - equilibrium) * np.exp(-kout * times)
    got = simulate(model, np.zeros((1, 4)), doses=[], covariates={"age": 77})[0]
    np.testing.assert_allclose(got, untreated, rtol=1e-6)
    treated = simulate(model, np.zeros((3, 4)), covariates=ages)

    # the same equation by scipy, from dose to dose
    y, course = 54.0, [54.0]
    for month in range(24):
        drug0 = sum(0.5 * np.exp(-0.077 * 28 * m) for m in range(month + 1))

        def slope(t, y, month=month, drug0=drug0):
            c = drug0 * np.exp(-0.077 * (t - 28 * month)) / 0.004
            effect = (6.1 + 41 * np.exp(-0.046 * t)) * c / (2.1 + c)
            return kout * (equilibrium * (1 + effect) - y)

        y = solve_ivp(slope, (28 * month, 28 * (month + 1)), [y], rtol=1e-9, atol=1e-9).y[0, -1]
        course.append(y)
    np.testing.assert_allclose(treated[0], course, atol=1e-4)
    assert 5 < treated[0, 3] - 54 < 15  # letters gained in the loading phase, as in the trials
    assert treated[1, 12] > treated[0, 12] > treated[2, 12]


def test_an_untreated_eye_that_changes_quickly_keeps_its_drug_at_0():
    """The equations turn stiff, and the implicit steps solve for a state that is 0 all the time. Found among 20,000."""
    model = get_model("visual-acuity")
    base, kout = float.fromhex("0x1.5443fa0bf52adp+5"), float.fromhex("0x1.fd94335cd1782p-5")
    emax, extra = float.fromhex("0x1.a1f47abc7ca9fp+2"), float.fromhex("0x1.ff2df315f5332p-5")
    kfade, kel = float.fromhex("0x1.78d4fdf3b645ap-5"), float.fromhex("0x1.3b645a1cac083p-4")
    values = np.array([[base, kout, emax, extra, kfade, 2.1, kel, 11.0]])
    got = simulate_individuals(model, values, [0.0, 56.0], [])
    np.testing.assert_allclose(got, [[base, 11 + (base - 11) * np.exp(-56 * kout)]], rtol=1e-6)


def test_visual_acuity_has_the_published_values():
    model = get_model("visual-acuity")
    omega = np.array(model.omega)
    assert omega[1, 1] == pytest.approx(np.log1p(7.3**2))
    assert omega[1, 3] / np.sqrt(omega[1, 1] * omega[3, 3]) == pytest.approx(-0.89)
    assert model.typical_values["kout"] == pytest.approx(0.19 / 365.25)
    assert model.residual.additive == 5.0


def test_a_file_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="registers no model"):
        load_models(tmp_path / "empty.py")
    with pytest.raises(ConfigError, match="no such model file"):
        load_models(tmp_path / "absent.py")
    for text, said in (
        ("x = (\n", r"broken\.py, line 1"),
        ("y = 1\nx = PopulationModel()\n", r"line 2.*'PopulationModel' is not defined"),
    ):
        (tmp_path / "broken.py").write_text(text)
        with pytest.raises(ConfigError, match=rf"cannot be run.*{said}"):
            load_models(tmp_path / "broken.py")
