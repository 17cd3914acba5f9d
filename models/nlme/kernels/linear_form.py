"""Recognises linear compartments in a model's equations: depots that feed a central one, and peripheral ones."""

from dataclasses import dataclass
from typing import Any

from image_longitudinal.models.nlme.kernels.graphs import is_zero, jacobian, simplify, value
from image_longitudinal.models.nlme.model.symbolic import SymbolicSystem

PERIPHERAL = 4  # compartments at most
TRIALS = ((0.3, 1.7), (1.1, 0.4), (2.3, 0.9))  # values that parameters have in turn when signs are looked at


@dataclass(frozen=True)
class LinearForm:
    """Linear compartments: places of their states, depots first, then the central one, then peripheral ones.

    ``rates``: expressions of ka (loss) and kt (flow to the central compartment) of each depot, of the loss k₀ of the
    central compartment, and of the flow to, the flow back and the loss of each peripheral compartment. ``scales``: what
    the central amount is multiplied by in each output; empty if :mod:`models.nlme.kernels.one_compartment` does not
    solve the model.
    """

    depots: int
    places: tuple[int, ...]
    rates: list[Any]
    scales: list[Any]


def linear_form(system: SymbolicSystem) -> LinearForm | None:
    """The form of a model's equations, or None if they have another: they are then integrated.

    The equations must be x' = A x with A free of states and time, every state either a depot (no inflow, feeds the
    central compartment alone), the central compartment or a peripheral one (exchanges with the central one alone), and
    flows between compartments positive for positive parameters.
    """
    x, n = system.states, len(system.states)
    if not n:
        return None
    matrix = simplify(jacobian(system.derivatives, x))
    if not all(is_zero(own) for own in simplify(_without(system.derivatives, x))) or _contain(
        matrix, {*x, system.time}
    ):
        return None
    cells = [[matrix[n * i + j] for j in range(n)] for i in range(n)]
    linked = [[i != j and not is_zero(cells[i][j]) for j in range(n)] for i in range(n)]  # j flows to i
    for central in range(n):
        others = [i for i in range(n) if i != central]
        if any(linked[i][j] for i in others for j in others):
            continue
        peripheral = [i for i in others if linked[i][central] and linked[central][i]]
        depots = [i for i in others if linked[central][i] and not linked[i][central]]
        if len(peripheral) + len(depots) < len(others) or len(peripheral) > PERIPHERAL:
            continue
        rates = [own for i in depots for own in (-cells[i][i], cells[central][i])]
        rates.append(-cells[central][central])
        for i in peripheral:
            rates += [cells[i][central], cells[central][i], -cells[i][i]]
        rates = simplify(rates)
        flows = [2 * d + 1 for d in range(len(depots))]
        flows += [2 * len(depots) + 3 * j + k for j in range(len(peripheral)) for k in (1, 2)]
        if _are_positive([rates[i] for i in flows], [*system.parameters, *system.covariates]):
            simple = len(depots) <= 1 and not (peripheral or system.dosing or system.covariates)
            scales = _scales(system, central) if simple else []
            return LinearForm(len(depots), (*depots, central, *peripheral), rates, scales)
    return None


def _scales(system: SymbolicSystem, central: int) -> list[Any]:
    """What the central amount is multiplied by in each output, or nothing: see :class:`LinearForm`."""
    x, n = system.states, len(system.states)
    slopes = simplify(jacobian(system.outputs, x))
    scales, others = slopes[central::n], [own for i, own in enumerate(slopes) if i % n != central]
    rest = [*simplify(_without(system.outputs, x)), *simplify(system.initial), *others]
    if not all(is_zero(own) for own in rest) or _contain(scales, {*x, system.time, system.observed}):
        return []
    return scales


def _without(expressions: list[Any], states: list[Any]) -> list[Any]:
    """The expressions where all states are 0."""
    import pytensor.tensor as pt
    from pytensor.graph.replace import clone_replace

    replaced: Any = clone_replace(expressions, {state: pt.constant(0.0, dtype="float64") for state in states})
    return list(replaced)


def _contain(expressions: list[Any], variables: set[Any]) -> bool:
    from pytensor.graph.traversal import ancestors

    return bool(variables & set(ancestors(expressions)))


def _are_positive(expressions: list[Any], parameters: list[Any]) -> bool:
    """Whether expressions are positive for some positive values of the parameters."""
    for values in TRIALS:
        given = {own: values[i % 2] for i, own in enumerate(parameters)}
        if not all(value(own, given) > 0 for own in expressions):
            return False
    return True
