"""Linear compartments in closed form, against matrix exponentials, NONMEM, the integrator and differences."""

from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit

from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.kernels import calls
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel, linear_kernel, solver_kernel
from image_longitudinal.models.nlme.kernels.linear_form import linear_form
from image_longitudinal.models.nlme.kernels.linear_state import NEAR, transfer
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.linear import linear_compartments
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import trace
from tests.models.nlme.kernels.test_event_integration import MODELLED, printed_precision, scenarios  # noqa: F401
from tests.models.nlme.matrix_exponentials import linear_predictions

ONE = linear_compartments(1, oral=True)
THREE = linear_compartments(
    3, oral=True, more=("lag", "f"), dosing=lambda p: {"central": {"lag": p.lag, "bioavailability": p.f}}
)
VALUES = (0.8, 2.0, 20.0, 3.0, 40.0, 0.7, 90.0, 0.37, 0.8)  # ka cl v q v2 q3 v3 lag f
TWO = linear_compartments(2, oral=True)


def solved(model, parameters, data, by=linear_kernel, sensitivities=True, tolerance=1e-10):
    """Predictions and their derivatives by a kernel."""
    parameters = np.atleast_2d(np.asarray(parameters, dtype=float))
    out = np.empty(len(data.times))
    gradient = np.empty((len(out), parameters.shape[1] if sensitivities else 0))
    assert by(model).run(parameters, data.arrays, 0, False, tolerance, out, gradient) == (-1, 0)
    return out, gradient


def differences(predict, parameters):
    """Central differences of predictions by each parameter, (N, m)."""
    columns = []
    for j, value in enumerate(parameters):
        move = np.zeros(len(parameters))
        move[j] = 1e-5 * value
        columns.append((predict(parameters + move) - predict(parameters - move)) / (2 * move[j]))
    return np.stack(columns, axis=1)


def test_the_27_dosing_scenarios_of_nonmem_in_closed_form(scenarios):  # noqa: F811
    table, parameters, nonmem = scenarios
    got, _ = solved(MODELLED, parameters, expand_events(table, MODELLED, every_row=True))
    observed = table["EVID"] == 0
    wrong = observed & (np.abs(1000 * got - nonmem) > printed_precision(nonmem))
    assert not wrong.any(), np.unique(table["ID"][wrong])
    exact = linear_predictions(MODELLED, parameters, table)
    np.testing.assert_allclose(got[observed], exact[observed], atol=1e-11)  # rounding: concentrations are up to 94


def test_sensitivities_are_exact_in_every_scenario(scenarios):  # noqa: F811
    # against central differences of the exact solution, at parameters where no event falls on an observation
    table, parameters, _ = scenarios
    parameters = parameters * np.array([1, 1, 1, 1.0137, 1.0123, 1.013, 1.017])
    data = expand_events(table, MODELLED, every_row=True)
    _, gradient = solved(MODELLED, parameters, data)
    for j, name in enumerate(MODELLED.parameters):
        step = 1e-5 * np.maximum(parameters[:, j], 0.1)
        step[parameters[:, j] == 0] = 0.0  # (a lag time below 0 does not exist)
        moves = np.zeros_like(parameters)
        moves[:, j] = step
        width = np.repeat(2 * step, np.diff(data.row_start))
        moved = (width > 0) & (table["EVID"] == 0)
        up, down = (linear_predictions(MODELLED, parameters + sign * moves, table)[moved] for sign in (1, -1))
        # the differences' own error: their truncation, and rounding of 1e-14 over a step of 1e-6
        atol = 1e-8 * np.abs(gradient[moved, j]).max() + 1e-8
        np.testing.assert_allclose(gradient[moved, j], (up - down) / width[moved], atol=atol, err_msg=name)


def everything():
    """Two subjects under every kind of dose and event: depot, central and peripheral, steady states, a reset."""
    rows = [  # ID TIME EVID AMT CMT RATE II SS ADDL
        (1, 0, 1, 100, 1, 0, 0, 0, 0), (1, 3, 1, 50, 2, 20, 0, 0, 0), (1, 4, 1, 30, 3, 0, 0, 0, 0),
        (1, 5, 1, 30, 4, 7, 0, 0, 0), (1, 30, 1, 40, 2, 0, 12, 2, 3), (1, 90, 4, 80, 1, 0, 0, 0, 0),
        (2, 0, 1, 100, 1, 0, 12, 1, 2), (2, 40, 1, 60, 2, 8, 5, 1, 0), (2, 60, 1, 60, 1, 6, 0, 0, 0),
        (2, 80, 1, 0, 2, 3, 0, 1, 0),
    ]  # fmt: skip
    observed = [(i, t, 0, 0, 2, 0, 0, 0, 0) for i in (1, 2) for t in np.arange(0.25, 120, 3.1)]
    given = np.array(sorted(rows + observed, key=lambda row: (row[0], row[1])), dtype=float)
    names = ("ID", "TIME", "EVID", "AMT", "CMT", "RATE", "II", "SS", "ADDL")
    return event_table(dict(zip(names, given.T, strict=True)), THREE)


def test_three_compartments_under_every_event_are_the_matrix_exponential_and_so_are_their_sensitivities():
    table, values = everything(), np.array(VALUES)
    data = expand_events(table, THREE, every_row=True)
    observed = table["EVID"] == 0

    def exact(parameters):
        return linear_predictions(THREE, parameters, table)[observed]

    got, gradient = solved(THREE, [values, values], data)
    np.testing.assert_allclose(got[observed], exact(values), atol=1e-11)
    np.testing.assert_allclose(gradient[observed], differences(exact, values), atol=2e-8)  # rounding over the step
    without, _ = solved(THREE, [values, values], data, sensitivities=False)
    np.testing.assert_array_equal(without, got)


def test_the_closed_form_and_the_integrator_agree_within_the_integrators_tolerance():
    data = expand_events(everything(), THREE, every_row=True)
    closed, by_closed = solved(THREE, [VALUES, VALUES], data)
    integrated, by_integrated = solved(THREE, [VALUES, VALUES], data, generated_kernel, tolerance=1e-10)
    np.testing.assert_allclose(integrated, closed, atol=1e-7)  # of concentrations up to 10
    np.testing.assert_allclose(by_integrated, by_closed, atol=1e-5)  # its steady states are found to 1e-7


def test_covariates_that_change_carry_amounts_and_sensitivities_on():
    times = np.arange(0.0, 40.0, 1.7)
    columns = {
        "ID": np.ones(len(times)), "TIME": times, "EVID": (times == 0) * 1.0, "AMT": (times == 0) * 100.0,
        "weight": np.where(times < 10, 70.0, np.where(times < 20, 55.0, 90.0)),
    }  # fmt: skip
    model = StructuralModel(
        "weight", TWO.states, TWO.parameters,
        lambda t, x, p: TWO.rhs(t, x, _scaled(p)), lambda t, x, p: x.central / _scaled(p).v, covariates=("weight",),
    )  # fmt: skip
    data = expand_events(event_table(columns, model), model, every_row=True)
    assert solver_kernel(model) is linear_kernel(model)
    values = [0.8, 2.0, 20.0, 3.0, 40.0]
    closed, by_closed = solved(model, values, data)
    integrated, by_integrated = solved(model, values, data, generated_kernel)
    np.testing.assert_allclose(closed, integrated, atol=1e-8)
    np.testing.assert_allclose(by_closed, by_integrated, atol=1e-7)
    # covariates that move between events make the equations depend on time
    linear = expand_events(event_table(columns, model, interpolation="linear"), model, every_row=True)
    assert data.is_stepwise
    assert not linear.is_stepwise
    assert solver_kernel(model, stepwise=False) is generated_kernel(model)


def test_doses_that_take_effect_at_once_have_a_kernel_of_their_own_with_the_same_results():
    columns = {"ID": [1] * 6, "TIME": [0, 1, 3, 5, 5, 9], "EVID": [1, 0, 0, 1, 0, 0], "AMT": [100, 0, 0, 50, 0, 0]}
    columns |= {"DV": [0] * 6}
    data = expand_events(event_table({k: np.array(v, dtype=float) for k, v in columns.items()}, TWO), TWO)
    assert data.is_boluses
    own = solver_kernel(TWO, boluses=True)
    assert own is linear_kernel(TWO).boluses
    values = [0.8, 2.0, 20.0, 3.0, 40.0]
    got, gradient = solved(TWO, values, data, lambda _: own)
    general, by_general = solved(TWO, values, data)
    np.testing.assert_allclose(got, general, rtol=1e-14)  # the same operations
    np.testing.assert_allclose(gradient, by_general, rtol=1e-13, atol=1e-15)
    # infusions are not that, nor doses that the parameters change
    infused = expand_events(event_table(columns | {"RATE": [20, 0, 0, 0, 0, 0]}, TWO), TWO)
    assert not infused.is_boluses
    assert solver_kernel(THREE, boluses=True) is linear_kernel(THREE)


def one_compartment(name, states=("depot", "central"), outputs=None, **more):
    """One compartment with or without a depot; by default the concentration is observed."""

    def rhs(t, x, p):
        if "depot" not in states:
            return {"central": -p.ka * p.cl / p.v * x.central}
        return {"depot": -p.ka * x.depot, "central": p.ka * x.depot - p.cl / p.v * x.central}

    return StructuralModel(name, states, ("ka", "cl", "v"), rhs, outputs or (lambda t, x, p: x.central / p.v), **more)


def both_ways(model, values, columns):
    """Predictions and derivatives of three subjects by the small kernel, and by that for any linear compartments."""
    rows = len(columns["TIME"])
    table = {name: np.tile(np.array(column, dtype=float), 3) for name, column in columns.items()}
    table |= {"ID": np.repeat([1.0, 2.0, 3.0], rows), "DV": np.zeros(3 * rows)}
    data = expand_events(event_table(table, model), model)
    parameters = np.array(values) * np.array([[1.0], [0.7], [1.4]])
    own = solver_kernel(model, boluses=True)
    assert data.is_boluses
    assert own is linear_kernel(model).boluses
    assert own.model()[calls.SOLVE] == linear_kernel(ONE).boluses.model()[calls.SOLVE]
    return solved(model, parameters, data, lambda _: own), solved(model, parameters, data)


REPEATED = {  # doses before, at and between observations, into the depot and into the central compartment
    "TIME": [0, 0, 0.5, 2, 6, 6, 7, 12, 12, 13, 30], "EVID": [1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0],
    "AMT": [100, 0, 0, 50, 0, 80, 0, 40, 0, 0, 0], "CMT": [1, 2, 2, 1, 2, 2, 2, 1, 2, 2, 2],
}  # fmt: skip


def test_one_compartment_has_a_kernel_of_its_own_with_the_same_results():
    (got, gradient), (general, by_general) = both_ways(ONE, [0.8, 2.0, 20.0], REPEATED)
    np.testing.assert_allclose(got, general, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(gradient, by_general, rtol=1e-12, atol=1e-13)
    without_depot = one_compartment("bolus", states=("central",))
    given = REPEATED | {"CMT": 11 * [1]}
    (got, gradient), (general, by_general) = both_ways(without_depot, [1.0, 2.0, 20.0], given)
    np.testing.assert_allclose(got, general, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(gradient, by_general, rtol=1e-12, atol=1e-13)


def test_absorption_as_fast_as_elimination_is_no_exception_there_either():
    for distance in (0.0, 1e-7, 3e-3):
        (got, gradient), (general, by_general) = both_ways(ONE, [0.1 * (1 + distance), 2.0, 20.0], REPEATED)
        np.testing.assert_allclose(got, general, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(gradient, by_general, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("output", [
    lambda t, x, p: x.central / p.v + 1.0, lambda t, x, p: x.central / (p.v + x.central),
    lambda t, x, p: x.depot + x.central, lambda t, x, p: x.central * t,
])  # fmt: skip
def test_outputs_that_are_no_multiple_of_the_central_amount_have_the_general_kernel(output):
    model = one_compartment("other", outputs=output)
    assert linear_form(trace(model)).scales == []


def test_a_model_that_starts_with_something_or_has_covariates_has_the_general_kernel():
    assert len(linear_form(trace(ONE)).scales) == 1
    with_start = one_compartment("start", initial=lambda p: {"central": p.v})
    assert linear_form(trace(with_start)).scales == []
    heavy = one_compartment("heavy", covariates=("weight",), outputs=lambda t, x, p: x.central / p.weight)
    assert linear_form(trace(heavy)).scales == []


def _scaled(p):
    """Clearance, volume and exchange by weight."""
    share = p.weight / 70.0
    return SimpleNamespace(**{**vars(p), "cl": p.cl * share**0.75, "v": p.v * share, "q": p.q * share**0.5})


@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-7, 1e-4, 3e-3])
def test_absorption_as_fast_as_elimination_is_no_exception(distance):
    k = 0.1
    table = event_table(
        {"ID": np.ones(9), "TIME": np.arange(9.0), "EVID": np.eye(9)[0], "AMT": 100 * np.eye(9)[0]}, ONE
    )  # fmt: skip
    data = expand_events(table, ONE, every_row=True)
    values = np.array([k * (1 + distance), k * 20.0, 20.0])
    got, gradient = solved(ONE, values, data)
    exact = lambda own: linear_predictions(ONE, own, table)  # noqa: E731
    np.testing.assert_allclose(got, exact(values), rtol=1e-12)
    np.testing.assert_allclose(gradient, differences(exact, values), atol=1e-7)


@njit
def transferred(h, ka, decay, of_depot, of_mode):
    """The compiled function, callable from Python."""
    return transfer(h, ka, decay, of_depot, of_mode)


def test_the_series_for_nearly_equal_rates_meets_the_formula_where_they_change():
    for h in (0.5, 30.0):
        apart = NEAR / h
        below, above = (
            np.array(transferred(h, 0.2 + own, 0.2, np.exp(-(0.2 + own) * h), np.exp(-0.2 * h)))
            for own in (apart * (1 - 1e-13), apart * (1 + 1e-13))
        )
        np.testing.assert_allclose(below, above, rtol=1e-10)  # the formula's cancellation: 1e-16 / NEAR²


def test_equal_peripheral_compartments_have_a_mode_without_central_part():
    values = (0.8, 2.0, 20.0, 3.0, 40.0, 3.0, 40.0, 0.37, 0.8)
    table = everything()
    data = expand_events(table, THREE, every_row=True)
    got, gradient = solved(THREE, [values, values], data)
    observed = (table["EVID"] == 0) & (table["ID"] == 2)  # (1 has doses into peripheral compartments)
    np.testing.assert_allclose(got[observed], linear_predictions(THREE, values, table)[observed], atol=1e-7)
    assert np.isfinite(gradient).all()


def test_linear_compartments_are_recognised_and_nothing_else_is():
    for name in ("one-compartment", "two-compartment", "pk-emax"):
        assert linear_kernel(get_model(name).structural) is not None
    for name in ("one-compartment-mm", "indirect-response-1", "depot-central-mm", "emax", "visual-acuity"):
        assert linear_kernel(get_model(name).structural) is None

    def model(rhs, states="a b"):
        return StructuralModel("m", tuple(states.split()), ("k", "q"), rhs, lambda t, x, p: x.a)

    star = model(lambda t, x, p: {"a": p.q * x.b - p.k * x.a, "b": p.k * x.a - p.q * x.b})
    assert linear_kernel(star).PLACES in ((0, 1), (1, 0))
    for other in (
        lambda t, x, p: {"a": -p.k * x.a, "b": p.k * x.a - p.q * x.b + 1.0},  # a constant production
        lambda t, x, p: {"a": -p.k * x.a * s.exp(-t), "b": p.k * x.a - p.q * x.b},  # time
        lambda t, x, p: {"a": -p.k * x.a, "b": p.k * x.a * x.b},  # not linear
        lambda t, x, p: {"a": -p.k * x.b, "b": p.q * x.a},  # an oscillator
    ):
        assert linear_kernel(model(other)) is None
    chain = model(
        lambda t, x, p: {"a": -p.k * x.a, "b": p.k * x.a - p.q * x.b, "c": p.q * x.b - p.k * x.c}, states="a b c"
    )
    assert linear_kernel(chain) is None
