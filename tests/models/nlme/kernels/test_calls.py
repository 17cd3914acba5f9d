"""Kernels that serve every model: compiled once, and they call what they were given."""

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.kernels import event_integration, individual, linear, one_compartment
from image_longitudinal.models.nlme.kernels.calls import call_rhs
from image_longitudinal.models.nlme.kernels.modes import modes
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel

TIMES = np.array([0.5, 1.0, 2.0, 4.0])


def population(structural: StructuralModel) -> PopulationModel:
    return PopulationModel(
        name=structural.name,
        structural=structural,
        parameters=tuple(Parameter(name, 0.5) for name in structural.parameters),
        omega=0.1 * np.eye(len(structural.parameters)),
        residual=ResidualError("additive", additive=0.1),
        design=Design(tuple(TIMES), ()),
    )


DECAY = population(StructuralModel("decay", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: x.a))
EXCHANGE = population(
    StructuralModel(
        "exchange", ("a", "b"), ("k", "back"),
        lambda t, x, p: {"a": p.back * x.b - p.k * x.a, "b": p.k * x.a - p.back * x.b},
        lambda t, x, p: x.b,
    )
)  # fmt: skip
HALF = population(StructuralModel("half", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: 0.5 * x.a))
RAISED = population(
    StructuralModel("raised", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a}, lambda t, x, p: x.a + 1.0)
)
SQUARE = population(
    StructuralModel("square", ("a",), ("k",), lambda t, x, p: {"a": -p.k * x.a * x.a}, lambda t, x, p: x.a)
)
FORMULA = population(StructuralModel("formula", (), ("k",), lambda t, x, p: {}, lambda t, x, p: s.exp(-p.k * t)))
TRUTH = {
    "exchange": lambda eta: np.exp(eta[0]) / np.exp(eta).sum() * (1 - np.exp(-0.5 * np.exp(eta).sum() * TIMES)),
    "square": lambda eta: 1 / (1 + 0.5 * np.exp(eta[0]) * TIMES),
    "half": lambda eta: 0.5 * np.exp(-0.5 * np.exp(eta[0]) * TIMES),
    "raised": lambda eta: 1.0 + np.exp(-0.5 * np.exp(eta[0]) * TIMES),
    **dict.fromkeys(("decay", "formula"), lambda eta: np.exp(-0.5 * np.exp(eta[0]) * TIMES)),
}


def check(model: PopulationModel) -> None:
    k, doses = model.n_random_effects, [Dose(0.0, 1.0, "a")] if model.structural.states else []
    eta = np.linspace(-0.3, 0.4, 3 * k).reshape(3, k)
    want = np.stack([TRUTH[model.name](row) for row in eta])
    objective = Objective(model, PopulationData.of_design(model.structural, want, TIMES, doses))
    got, slopes = objective.predict(PopulationParameters.of(model), eta)
    np.testing.assert_allclose(got, want.ravel(), atol=1e-6)  # the solver's 1e-8 per step
    step = 1e-5
    for j in range(k):
        moved = [np.concatenate([TRUTH[model.name](row) for row in eta + h * np.eye(k)[j]]) for h in (step, -step)]
        np.testing.assert_allclose(slopes[:, j], (moved[0] - moved[1]) / (2 * step), atol=1e-6)
    objective.gradient(PopulationParameters.of(model))


def test_what_serves_every_model_is_compiled_for_the_first_and_predicts_each() -> None:
    solvers = (event_integration.solve_events, linear.solve_boluses, one_compartment.solve_one_compartment)
    shared = (individual.predictions, modes, individual.objectives, *solvers)
    for model in (SQUARE, EXCHANGE, DECAY):  # one for each solver
        check(model)
    before = [kernel.signatures for kernel in shared]
    assert all(before)
    for model in (FORMULA, RAISED, HALF):
        check(model)
    assert [kernel.signatures for kernel in shared] == before


def test_read_only_outcomes_are_taken() -> None:
    data = PopulationData.of_design(DECAY.structural, np.ones((2, 4)), TIMES, [Dose(0.0, 1.0)])
    for array in (data.times, data.observed, data.row_start):
        array.flags.writeable = False
    assert np.isfinite(Objective(DECAY, data).evaluate(PopulationParameters.of(DECAY))).all()


def test_arguments_of_another_type_are_refused_when_compiled() -> None:
    @njit
    def wrong(model, x):  # type: ignore[no-untyped-def]
        return call_rhs(model, (0.0, x, x, x[::2]))

    with pytest.raises(TypingError, match="expected arguments"):
        wrong(np.zeros(9, dtype=np.int64), np.zeros(3))
