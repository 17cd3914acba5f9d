"""Mathematical functions for structural models, and the symbolic form of a model (PyTensor, imported on first use)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.explanations import explained
from image_longitudinal.models.nlme.model.structural import MODIFIERS, Expression, StructuralModel


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


def equal(x: Expression, y: Expression) -> Expression:
    """Whether two symbolic expressions are equal, as a condition of :func:`where` (e.g. for a group or an occasion)."""
    return _pt().eq(x, y)


def maximum(x: Expression, y: Expression) -> Expression:
    """The larger of two symbolic expressions."""
    return _pt().maximum(x, y)


@dataclass(frozen=True)
class SymbolicSystem:
    """PyTensor scalars of a structural model: inputs (time, states, ...) and results.

    ``outputs`` by endpoint; ``dosing``: lag, bioavailability, rate and duration of each state in turn (4n), or empty.
    """

    time: Any
    states: list[Any]
    parameters: list[Any]
    covariates: list[Any]
    derivatives: list[Any]
    outputs: list[Any]
    initial: list[Any]
    dosing: list[Any]


def trace(model: StructuralModel) -> SymbolicSystem:
    """Call the model's functions with PyTensor float64 scalars.

    Raises:
        ConfigError: an equation is missing, belongs to no state, is no expression, or uses an unknown name; the message
            has the line of the file and the cure.
    """
    pt = _pt()
    time = pt.dscalar("t")
    states = {name: pt.dscalar(name) for name in model.states}
    parameters = {name: pt.dscalar(name) for name in model.parameters}
    covariates = {name: pt.dscalar(name) for name in model.covariates}
    x, p = SimpleNamespace(**states), SimpleNamespace(**parameters, **covariates)
    equations = _called(model, "rhs", model.rhs, (time, x, p))
    outputs = _called(model, "output", model.output, (time, x, p), alone=model.endpoints[0])
    initial = _called(model, "initial", model.initial, (p,)) if model.initial else {}
    dosing = _called(model, "dosing", model.dosing, (p,)) if model.dosing else {}
    for what, given, wanted, known in (
        ("equations", equations, set(model.states), model.states),
        ("initial values", initial, set(initial), model.states),
        ("outputs", outputs, set(model.endpoints), model.endpoints),
        ("dosing", dosing, set(dosing), model.states),
        *((f"dosing of {state}", values, set(values), MODIFIERS) for state, values in dosing.items()),
    ):
        if set(given) != wanted or not set(given) <= set(known):
            message = f"structural model {model.name!r} has {what} that do not match"
            raise ConfigError(message, expected=list(known), got=sorted(given))

    def scalars(expressions: Iterable[Expression]) -> list[Any]:
        return [_scalar(model, expression) for expression in expressions]

    usual = {"lag": 0.0, "bioavailability": 1.0, "rate": 0.0, "duration": 0.0}
    modifiers = [(usual | dosing.get(state, {}))[name] for state in model.states for name in MODIFIERS]
    return SymbolicSystem(
        time,
        list(states.values()),
        list(parameters.values()),
        list(covariates.values()),
        scalars(equations[name] for name in model.states),
        scalars(outputs[name] for name in model.endpoints),
        scalars(initial.get(name, 0.0) for name in model.states),
        scalars(modifiers) if dosing else [],
    )


def _called(
    model: StructuralModel, name: str, function: Callable[..., Any], arguments: tuple[Any, ...],
    alone: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a function of the model returns, by name; ``alone`` is the name of a single expression."""
    names = f"states {list(model.states)}, parameters {[*model.parameters, *model.covariates]}"
    try:
        found = function(*arguments)
        if alone is not None and not isinstance(found, Mapping):
            return {alone: found}
        return {key: dict(value) if name == "dosing" else value for key, value in dict(found).items()}
    except AttributeError as error:
        what = f"structural model {model.name!r} uses a name it does not declare"
        raise explained(error, what, function=function, expected=names, do="declare it, or correct its name") from error
    except Exception as error:  # whatever a person's code raises
        what, do = f"{name} of structural model {model.name!r} cannot be used", "return expressions by name in { }"
        raise explained(error, what, function=function, do=do) from error


def _scalar(model: StructuralModel, expression: Expression) -> Any:
    """An expression as a PyTensor scalar."""
    try:
        scalar = _pt().as_tensor_variable(expression, dtype="float64")
    except Exception as error:
        what = f"structural model {model.name!r} has an expression that is none"
        raise ConfigError(what, expected="numbers, states, parameters and what is made of them", got=error) from error
    if scalar.ndim:
        what = f"structural model {model.name!r} has an expression that is not a single value"
        raise ConfigError(what, got=f"{scalar.ndim} dimensions", do="leave out brackets and NumPy's arrays")
    return scalar


def depends_on_time(model: StructuralModel) -> bool:
    """Whether time itself occurs in the model's equations or outputs."""
    from pytensor.graph.traversal import ancestors

    system = trace(model)
    return system.time in set(ancestors([*system.derivatives, *system.outputs]))


def _pt() -> Any:
    import pytensor.tensor as pt

    return pt
