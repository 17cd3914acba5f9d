"""Mathematical functions for structural models, and the symbolic form of a model (PyTensor, imported on first use)."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from core.errors import ConfigError
from models.nlme.structural import Expression, StructuralModel


def exp(x: Expression) -> Expression:
    """e to the power of a symbolic expression."""
    return _pt().exp(x)


def log(x: Expression) -> Expression:
    """Natural logarithm of a symbolic expression."""
    return _pt().log(x)


def sqrt(x: Expression) -> Expression:
    """Square root of a symbolic expression."""
    return _pt().sqrt(x)


def where(condition: Expression, then: Expression, otherwise: Expression) -> Expression:
    """``then`` where the condition holds, ``otherwise`` elsewhere (e.g. ``where(t > 3, 1.0, 0.0)``)."""
    return _pt().switch(condition, then, otherwise)


def maximum(x: Expression, y: Expression) -> Expression:
    """The larger of two symbolic expressions."""
    return _pt().maximum(x, y)


@dataclass(frozen=True)
class SymbolicSystem:
    """PyTensor scalars of a structural model: inputs (time, states, parameters) and what is computed from them."""

    time: Any
    states: list[Any]
    parameters: list[Any]
    derivatives: list[Any]
    output: Any
    initial: list[Any]


def trace(model: StructuralModel) -> SymbolicSystem:
    """Call the model's functions with PyTensor float64 scalars.

    Raises:
        ConfigError: an equation is missing, belongs to no state, or uses an unknown state or parameter name.
    """
    pt = _pt()
    time = pt.dscalar("t")
    states = {name: pt.dscalar(name) for name in model.states}
    parameters = {name: pt.dscalar(name) for name in model.parameters}
    x, p = SimpleNamespace(**states), SimpleNamespace(**parameters)
    try:
        equations = dict(model.rhs(time, x, p))
        output = pt.as_tensor_variable(model.output(time, x, p), dtype="float64")
        initial = dict(model.initial(p)) if model.initial else {}
    except AttributeError as error:
        raise ConfigError(
            f"structural model {model.name!r} uses a name it does not declare",
            expected=f"states {list(model.states)}, parameters {list(model.parameters)}",
            got=error,
        ) from error
    for what, given, wanted in (("equations", equations, set(model.states)), ("initial", initial, set(initial))):
        if set(given) != wanted or not set(given) <= set(model.states):
            raise ConfigError(
                f"structural model {model.name!r} has {what} that do not match its states",
                expected=list(model.states),
                got=sorted(given),
            )
    return SymbolicSystem(
        time,
        list(states.values()),
        list(parameters.values()),
        [pt.as_tensor_variable(equations[name], dtype="float64") for name in model.states],
        output,
        [pt.as_tensor_variable(initial.get(name, 0.0), dtype="float64") for name in model.states],
    )


def _pt() -> Any:
    import pytensor.tensor as pt

    return pt
