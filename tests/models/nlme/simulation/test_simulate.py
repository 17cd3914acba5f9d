import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import lambertw

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels import depot_central
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, simulate

ORIGINAL = get_model("depot-central-mm")


def scipy_reference(parameters, times, doses=ORIGINAL.design.doses):
    """The same model by scipy's Radau at 1e-11, with the depot written out."""
    ka, imax, ic50 = parameters

    def depot(t):
        return sum(d.amount * np.exp(-ka * (t - d.time)) for d in doses if d.compartment == "depot" and t >= d.time)

    def central(t, y):
        return [ka * depot(t) - imax * y[0] / (ic50 + y[0])]

    def slope(t, y):
        return [[-imax * ic50 / (ic50 + y[0]) ** 2]]

    cuts = sorted({times[0], *[d.time for d in doses], times[-1]})
    out, y = np.zeros(len(times)), 0.0
    for left, right in pairwise(cuts):
        y += sum(d.amount for d in doses if d.compartment == "central" and d.time == left)
        inside = (times >= left) & (times <= right)
        at = np.unique(np.append(times[inside], right))
        solution = solve_ivp(
            central, (left, right), [y], t_eval=at, method="Radau", jac=slope, rtol=1e-11, atol=1e-12,
            first_step=min(1e-3, 0.01 / ka),
        )  # fmt: skip
        out[inside] = np.interp(times[inside], solution.t, solution.y[0])
        y = solution.y[0][-1]
    return out


def test_the_original_population():
    assert ORIGINAL.typical_values == {"ka": 1.0, "imax": 2.1, "ic50": 0.4}
    assert ORIGINAL.random_effect_names == ("eta_ka", "eta_imax", "eta_ic50")
    assert ORIGINAL.n_random_effects == 3
    eta = np.array([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]])
    want = np.array([1.0, 2.1, 0.4]) * np.exp(eta)
    np.testing.assert_allclose(individual_parameters(ORIGINAL, eta), want, rtol=1e-15)


def test_agrees_with_scipy_on_typical_and_hardest_subjects(stress_eta):
    # 1e-6 is the accuracy the kernel promises; the reference is run at 1e-11. Hardest: largest imax / ic50, ka.
    parameters = individual_parameters(ORIGINAL, stress_eta)
    order, by_ka = np.argsort(parameters[:, 1] / parameters[:, 2]), np.argsort(parameters[:, 0])
    chosen = np.unique([*order[-4:], order[0], *by_ka[[0, -1]], *range(9000, 9003)])
    times = np.array(ORIGINAL.design.times)
    got = simulate(ORIGINAL, stress_eta)
    want = np.array([scipy_reference(row, times) for row in parameters[chosen]])
    assert np.abs(got[chosen] - want).max() < 1e-6
    assert got.min() >= -1e-9


def test_several_doses_into_both_compartments():
    doses = [Dose(0.0, 1.0, "depot"), Dose(2.25, 0.5, "central"), Dose(4.0, 2.0, "depot")]
    times = np.linspace(0, 10, 41)
    parameters = individual_parameters(ORIGINAL, np.zeros((1, 3)))[0]
    want = scipy_reference(parameters, times, doses)
    # 3.5 units given: the accuracy of 1e-6 is per unit of dose
    assert np.abs(simulate(ORIGINAL, np.zeros((1, 3)), times, doses)[0] - want).max() < 3.5e-6


def test_an_infusion_approaches_the_bolus_as_it_shortens_and_conserves_mass():
    slow = simulate(ORIGINAL, [[0, -20, 0]], [10.0], [Dose(0, 1.0, "central", duration=4.0)])  # (no elimination)
    assert slow[0, 0] == pytest.approx(1.0, abs=1e-6)
    into_depot = simulate(ORIGINAL, [[2, -20, 0]], [10.0], [Dose(0, 1.0, "depot", duration=4.0)])
    assert into_depot[0, 0] == pytest.approx(1.0, abs=1e-6)
    short = simulate(ORIGINAL, [[0, 0, 0]], None, [Dose(0, 1.0, "depot", duration=1e-6)])
    np.testing.assert_allclose(short, simulate(ORIGINAL, [[0, 0, 0]]), atol=2e-6)


def test_limit_of_fast_absorption_is_a_bolus():
    fast = simulate(ORIGINAL, [[16.0, 0.3, -0.2]])  # ka = 9e6: the depot empties in 1e-7
    bolus = simulate(ORIGINAL, [[0.0, 0.3, -0.2]], None, [Dose(0, 1.0, "central")])
    np.testing.assert_allclose(fast[:, 1:], bolus[:, 1:], atol=2e-6)


def test_michaelis_menten_bolus_is_the_lambert_w_closed_form_and_large_ic50_linear_elimination():
    times = np.linspace(0, 3, 31)
    exact = 0.4 * lambertw(1 / 0.4 * np.exp((1 - 2.1 * times) / 0.4)).real
    got = simulate(ORIGINAL, [[0, 0, 0]], times, [Dose(0, 1.0, "central")])[0]
    np.testing.assert_allclose(got, exact, atol=1e-6)
    k = 0.7
    eta = np.array([[0.0, np.log(k * 1e7 / 2.1), np.log(1e7 / 0.4)]])
    times = np.array(ORIGINAL.design.times)
    exact = 1.0 / (1.0 - k) * (np.exp(-k * times) - np.exp(-times))
    # the linear limit itself is off by about concentration / ic50 = 1e-7
    np.testing.assert_allclose(simulate(ORIGINAL, eta)[0], exact, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), workers=st.integers(1, 4), seed=st.integers(0, 99))
def test_any_chunking_and_any_workers_give_the_same_bits(cuts, workers, seed):
    eta = np.random.default_rng(seed).standard_normal((60, 3))
    ids, key = np.arange(1000, 1060), stream_key(seed, "residual", 0.5)
    whole = observe(ORIGINAL, simulate(ORIGINAL, eta), key=key, ids=ids)
    for a, b in pairwise([0, *sorted(cuts), 60]):
        piece = simulate(ORIGINAL, eta[a:b], n_threads=workers, ids=ids[a:b])
        assert observe(ORIGINAL, piece, key=key, ids=ids[a:b]).tobytes() == whole[a:b].tobytes()


def test_neighbours_of_other_stiffness_and_the_layout_do_not_change_the_bits(stress_eta):
    # subjects share vector registers: each alone must be what it is in company
    few = np.random.default_rng(8).permutation(stress_eta)[:40]
    doses = [Dose(0.0, 1.0, "depot"), Dose(1.3, 2.0, "central", duration=3.1), Dose(2.0, 0.5, "depot", duration=0.7)]
    together = simulate(ORIGINAL, few, None, doses)
    assert simulate(ORIGINAL, np.asfortranarray(few), None, doses).tobytes() == together.tobytes()
    for row in range(len(few)):
        assert simulate(ORIGINAL, few[row : row + 1], None, doses).tobytes() == together[row].tobytes()


def test_predictions_alone_and_with_derivatives_agree(stress_eta):
    # one is vectorised at order 7, the other scalar at order 5: both are accurate to 1e-6
    doses = [Dose(0.5, 1.0, "depot"), Dose(1.3, 2.0, "central", duration=3.1), Dose(1.3, 0.5, "central")]
    parameters = individual_parameters(ORIGINAL, stress_eta[:2000])
    data = PopulationData.of_design(ORIGINAL.structural, np.zeros((1, 21)), ORIGINAL.design.times, doses)
    alone, both = np.empty(2000 * 21), np.empty(2000 * 21)
    depot_central.run(parameters, data.arrays, 0, True, 1e-8, alone, np.empty((len(alone), 0)))
    depot_central.run(parameters, data.arrays, 0, True, 1e-8, both, np.empty((len(both), 3)))
    np.testing.assert_allclose(alone, both, atol=1e-6)
    assert (alone.reshape(2000, 21)[:, 0] == 0.0).all()  # before the first dose


def test_observations_are_prediction_plus_sigma_times_the_stream():
    prediction = simulate(ORIGINAL, np.zeros((4, 3)))
    ids = np.array([3, 1, 4, 15])
    noise = (observe(ORIGINAL, prediction, key=9, ids=ids) - prediction) / 0.01
    np.testing.assert_allclose(noise, normals(9, ids, 21), atol=1e-10)


def test_a_subject_that_cannot_be_integrated_is_named_with_its_parameters():
    eta = np.zeros((5, 3))
    eta[3, 1] = np.nan
    with pytest.raises(SimulationError, match=r"subject 103.*imax=nan"):
        simulate(ORIGINAL, eta, ids=[100, 101, 102, 103, 104])
    eta[3] = (0, 700, -700)  # overflows inside the step
    with pytest.raises(SimulationError, match=r"subject 13.*imax=2\.1"):
        simulate(ORIGINAL, eta, ids=[10, 11, 12, 13, 14], n_threads=3)


@pytest.mark.parametrize("times", [[1.0, 0.5], [], [[0.0, 1.0], [0.0, 1.0]], [[[0.0]]], [0.0, np.nan]])
def test_unusable_times_are_refused(times):
    with pytest.raises(ConfigError, match="times"):
        simulate(ORIGINAL, np.zeros((1, 3)), times)


def test_impossible_doses_and_random_effects_of_another_model_are_refused():
    with pytest.raises(ConfigError, match="impossible dose"):
        Dose(0.0, -1.0)
    with pytest.raises(ConfigError, match="1 depot, 2 central"):
        simulate(ORIGINAL, np.zeros((1, 3)), None, [Dose(0.0, 1.0, "gut")])
    with pytest.raises(ConfigError, match=r"\(n, 3\)"):
        simulate(ORIGINAL, np.zeros((2, 4)))


def test_simulating_imports_neither_pymc_nor_pytensor():
    code = (
        "import sys, numpy as np; from image_longitudinal.models.nlme.simulation.simulate import simulate;"
        "from image_longitudinal.models.nlme.library import get_model;"
        "simulate(get_model('depot-central-mm'), np.zeros((1, 3)));"
        "assert not {'pymc', 'pytensor', 'torch', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
