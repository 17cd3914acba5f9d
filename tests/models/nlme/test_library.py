"""Library models against closed forms, and a user's own model in a file."""

import numpy as np
import pytest

from core.errors import ConfigError
from models.nlme.library import get_model, known_models, load_models
from models.nlme.simulation import Dose, simulate

TIMES = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 48.0])


def typical(name, doses, times=TIMES):
    model = get_model(name)
    return simulate(model, np.zeros((1, model.n_random_effects)), times, doses)[0]


def test_every_model_is_complete():
    for name in known_models():
        model = get_model(name)
        assert model.name == name
        assert len(model.typical_values) == model.n_parameters
        assert np.asarray(model.omega).shape == (model.n_random_effects,) * 2


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
    np.testing.assert_allclose(typical("two-compartment", [Dose(0, 100, "central")]), exact, atol=5e-6)


def test_saturable_elimination_from_a_bolus_is_lambert_w():
    from scipy.special import lambertw

    vmax, km, v = 10.0, 2.0, 20.0
    exact = km * lambertw(5 / km * np.exp((5 - vmax / v * TIMES) / km)).real
    np.testing.assert_allclose(typical("one-compartment-mm", [Dose(0, 100, "central")]), exact, atol=5e-6)


@pytest.mark.parametrize(("number", "direction"), [(1, -1), (2, 1), (3, 1), (4, -1)])
def test_indirect_responses_start_at_baseline_move_the_right_way_and_return(number, direction):
    course = typical(f"indirect-response-{number}", [Dose(0, 100, "depot")], np.append(TIMES, 240.0))
    assert course[0] == pytest.approx(50.0, abs=1e-9)
    assert (direction * (course[1:-1] - 50.0) > 0).all()
    assert course[-1] == pytest.approx(50.0, abs=0.01)


def test_indirect_response_without_drug_stays_at_baseline():
    np.testing.assert_allclose(typical("indirect-response-1", []), 50.0, rtol=1e-12)


USER_FILE = """
from models.nlme import symbolic as s
from models.nlme.dosing import Dose
from models.nlme.library import register
from models.nlme.population import Design, Parameter, PopulationModel
from models.nlme.residual import ResidualError
from models.nlme.structural import StructuralModel

register(PopulationModel(
    name="gompertz-growth",
    structural=StructuralModel(
        name="gompertz-growth", states=("size",), parameters=("rate", "limit"),
        rhs=lambda t, x, p: {"size": p.rate * x.size * s.log(p.limit / x.size)},
        output=lambda t, x, p: x.size,
        initial=lambda p: {"size": 1.0},
    ),
    parameters=(Parameter("rate", 0.3), Parameter("limit", 50.0)),
    omega=((0.1, 0.0), (0.0, 0.1)),
    residual=ResidualError("proportional", proportional=0.1),
    design=Design(times=(0.0, 5.0, 10.0), doses=()),
))
"""


def test_a_users_own_file_adds_a_model_by_name(tmp_path):
    (tmp_path / "growth.py").write_text(USER_FILE)
    assert load_models(tmp_path / "growth.py") == ["gompertz-growth"]
    model = get_model("gompertz-growth")
    got = simulate(model, np.zeros((1, 2)))[0]
    exact = 50 * np.exp(np.log(1 / 50) * np.exp(-0.3 * np.array(model.design.times)))
    np.testing.assert_allclose(got, exact, rtol=2e-6)


def test_a_file_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="registers no model"):
        load_models(tmp_path / "empty.py")
    with pytest.raises(ConfigError, match="no such model file"):
        load_models(tmp_path / "absent.py")
