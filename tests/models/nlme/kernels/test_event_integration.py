"""The generated integrator through every kind of event, against matrix exponentials, NONMEM and closed forms."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel
from image_longitudinal.models.nlme.kernels.esdirk import TOLERANCE
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import predict_table, simulate
from tests.models.nlme.matrix_exponentials import DosingParameters, linear_predictions

# the control stream of nmtest_half.csv: everything about doses into the central compartment is a parameter
MODELLED = StructuralModel(
    name="one-compartment-modelled",
    states=("depot", "central"),
    parameters=("ka", "cl", "v", "lag", "f", "rate", "duration"),
    rhs=lambda t, x, p: {"depot": -p.ka * x.depot, "central": p.ka * x.depot - p.cl / p.v * x.central},
    output=lambda t, x, p: x.central / p.v,
    dosing=lambda p: {
        "central": {"lag": p.lag, "bioavailability": p.f, "rate": p.rate, "duration": p.duration},
    },
)


@pytest.fixture(scope="module")
def scenarios(reference_data):
    """The 27 dosing scenarios: table, parameters of each subject, NONMEM's concentrations, what the doses are like."""
    raw = np.genfromtxt(reference_data / "nmtest_half.csv", delimiter=",", names=True)
    names = ("id", "time", "cmt", "amt", "evid", "ii", "ss", "addl", "rate")
    table = event_table({name: raw[name] for name in names}, MODELLED)
    own = np.array(
        [[raw[name][rows.start] for name in ("lagt", "bioav", "rat2", "dur2")] for _, rows in table.subjects()]
    )
    return table, np.hstack([np.tile([1.5, 1.1, 20.0], (27, 1)), own]), raw["cp"]


def printed_precision(values):
    """Half a unit of the last of five significant digits, and a little for the arithmetic."""
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    return 0.51 * 10.0 ** (magnitude - 4)


def integrated(model, parameters, data, tolerance=TOLERANCE):
    """Predictions by the integrator, also of models with a closed form."""
    out = np.empty(len(data.times))
    assert (
        generated_kernel(model).run(parameters, data.arrays, 0, False, tolerance, out, np.empty((len(out), 0)))[0] < 0
    )
    return out


def test_the_27_dosing_scenarios_of_nonmem_as_differential_equations(scenarios):
    table, parameters, nonmem = scenarios
    data = expand_events(table, MODELLED, every_row=True)
    got = 1000 * integrated(MODELLED, parameters, data, tolerance=1e-10)
    observed = table["EVID"] == 0
    assert observed.sum() == 27 * 131
    wrong = observed & (np.abs(got - nonmem) > printed_precision(nonmem))
    assert not wrong.any(), np.unique(table["ID"][wrong])
    # and to the integrator's own accuracy: 1e-6 of the largest concentration (about 50 mg/L)
    loose = integrated(MODELLED, parameters, data)
    exact = linear_predictions(MODELLED, parameters, table)
    np.testing.assert_allclose(loose[observed], exact[observed], atol=5e-5)


def test_sensitivities_follow_through_doses_lags_and_steady_states(scenarios):
    # against central differences of the exact solution, at parameters where no event falls on an observation
    table, parameters, _ = scenarios
    parameters = parameters * np.array([1, 1, 1, 1.0137, 1.0123, 1.013, 1.017])
    data = expand_events(table, MODELLED, every_row=True)
    out, gradient = np.empty(len(table)), np.empty((len(table), 7))
    assert generated_kernel(MODELLED).run(parameters, data.arrays, 0, False, 1e-10, out, gradient)[0] == -1
    for j, name in enumerate(MODELLED.parameters):
        step = 1e-5 * np.maximum(parameters[:, j], 0.1)
        step[parameters[:, j] == 0] = 0.0  # (a lag time below 0 does not exist)
        up, down = parameters.copy(), parameters.copy()
        up[:, j] += step
        down[:, j] -= step
        width = np.repeat(2 * step, np.diff(data.row_start))
        moved = (width > 0) & (table["EVID"] == 0)
        difference = (linear_predictions(MODELLED, up, table) - linear_predictions(MODELLED, down, table))[
            moved
        ] / width[moved]
        scale = 1e-5 * np.abs(gradient[moved, j]).max()  # the differences' own error
        np.testing.assert_allclose(gradient[moved, j], difference, atol=scale + 1e-7, err_msg=name)


def rows(*given, **columns):
    """A table of one subject from (time, evid, amt) and further columns."""
    time, evid, amt = np.transpose(given)
    return {"ID": np.ones(len(time)), "TIME": time, "EVID": evid, "AMT": amt, **columns}


MM = get_model("one-compartment-mm")
ETA = np.zeros((1, 4))  # ka 1, vmax 10, km 2, v 20


def course(**table):
    return predict_table(MM, ETA, event_table(table, MM.structural))


def test_steady_state_of_a_saturable_model_is_what_many_doses_lead_to():
    many = rows((0, 1, 60), (2400, 0, 0), (2405, 0, 0), ADDL=[399, 0, 0], II=[12, 0, 0])
    steady = rows((0, 1, 60), (0, 0, 0), (5, 0, 0), SS=[1, 0, 0], II=[12, 0, 0])
    # both to 2e-8 of the amounts per step; the depot's first-order absorption forgets, the saturation does not
    np.testing.assert_allclose(course(**steady)[1:], course(**many)[1:], rtol=1e-6)


def test_steady_infusions_that_overlap_are_what_many_lead_to():
    many = rows((0, 1, 60), (2400, 0, 0), (2405, 0, 0), ADDL=[399, 0, 0], II=[12, 0, 0], RATE=[4, 0, 0], CMT=[2, 1, 1])
    steady = rows((0, 1, 60), (0, 0, 0), (5, 0, 0), SS=[1, 0, 0], II=[12, 0, 0], RATE=[4, 0, 0], CMT=[2, 1, 1])
    np.testing.assert_allclose(course(**steady)[1:], course(**many)[1:], rtol=1e-6)


def test_the_steady_state_of_a_constant_infusion_balances_elimination():
    steady = rows((0, 1, 0), (0, 0, 0), (1e-3, 0, 0), SS=[1, 0, 0], RATE=[6, 0, 0], CMT=[2, 1, 1])
    got = course(**steady)
    assert got[1] == pytest.approx(2.0 * 6.0 / (10.0 - 6.0), rel=1e-7)  # rate = vmax c / (km + c)
    assert got[2] == pytest.approx(3.0 - 1e-3 * 6.0 / 20.0, rel=1e-6)  # the infusion ends at the event


def test_doses_beyond_what_can_be_eliminated_have_no_steady_state():
    with pytest.raises(SimulationError, match=r"no steady state.*subject 1.*vmax=10"):
        course(**rows((0, 1, 600), (1, 0, 0), SS=[1, 0], II=[12, 0]))


def test_a_reset_forgets_doses_infusions_and_what_is_still_to_come():
    events = rows(
        (0, 1, 60), (1, 1, 60), (2, 3, 0), (2, 0, 0), (13, 0, 0), (20, 4, 60), (21, 0, 0),
        ADDL=[3, 0, 0, 0, 0, 0, 0], II=[12, 0, 0, 0, 0, 0, 0], RATE=[0, 3, 0, 0, 0, 0, 0], CMT=[1, 2, 1, 1, 1, 1, 1],
    )  # fmt: skip
    got = course(**events)
    assert got[3] == got[4] == 0.0
    assert got[6] == pytest.approx(course(**rows((0, 1, 60), (1, 0, 0)))[1], rel=1e-7)


def test_an_observation_sees_the_doses_of_the_rows_above_it():
    before, after = rows((0, 0, 0), (0, 1, 60), CMT=[1, 2]), rows((0, 1, 60), (0, 0, 0), CMT=[2, 1])
    assert course(**before)[0] == 0.0
    assert course(**after)[1] == 3.0


def test_a_table_and_a_design_give_the_same_course():
    times = np.arange(0.0, 48.1, 3.0)
    first = np.zeros(len(times) + 1)
    first[0] = 1.0
    table = rows(*zip([0.0, *times], first, 60.0 * first, strict=True), ADDL=3 * first, II=12 * first)
    want = simulate(MM, ETA, times, [Dose(12.0 * m, 60.0) for m in range(4)])[0]
    np.testing.assert_allclose(course(**table)[1:], want, rtol=1e-12)


def test_a_modelled_duration_needs_a_model_that_says_it():
    with pytest.raises(ConfigError, match=r"rate or duration is a parameter.*has none.*row 1, ID 1"):
        course(**rows((0, 1, 60), (1, 0, 0), RATE=[-2, 0]))


def test_the_exact_course_refuses_a_model_that_is_not_linear(original):
    table = event_table(rows((0, 1, 1), (1, 0, 0)), original.structural)
    with pytest.raises(ConfigError, match="depot-central-mm"):
        linear_predictions(original.structural, [1.0, 2.1, 0.4], table)


def test_dosing_parameters_can_also_be_given_by_subject():
    table = event_table(rows((0, 1, 100), (5, 0, 0), CMT=[2, 1]), MODELLED)
    own = linear_predictions(MODELLED, [1.5, 1.1, 20.0, 2.0, 0.5, 10.0, 2.0], table)
    given = linear_predictions(MODELLED, [1.5, 1.1, 20.0, 0, 1, 1, 1], table, DosingParameters({2: 2.0}, {2: 0.5}))
    np.testing.assert_allclose(own, given, rtol=1e-12)
