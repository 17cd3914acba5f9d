"""Mathematical functions for structural models, and the symbolic form of a model (PyTensor, imported on first use)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.endpoint_likelihood import Likelihood, UnresolvedEvent
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
    if isinstance(condition, bool):  # of numbers alone
        return then if condition else otherwise
    return _pt().switch(condition, then, otherwise)


def equal(x: Expression, y: Expression) -> Expression:
    """Whether two symbolic expressions are equal, as a condition of :func:`where` (e.g. for a group or an occasion)."""
    return _pt().eq(x, y)


def maximum(x: Expression, y: Expression) -> Expression:
    """The larger of two symbolic expressions."""
    return _pt().maximum(x, y)


def expm1(x: Expression) -> Expression:
    """exp(x) - 1 of a symbolic expression, exact also near 0."""
    return _pt().expm1(x)


def softplus(x: Expression) -> Expression:
    """log(1 + exp(x)) of a symbolic expression."""
    return _pt().softplus(x)


def log_one_minus_exp(x: Expression) -> Expression:
    """log(1 - exp(x)) of a symbolic expression that is negative."""
    return _pt().log(-_pt().expm1(x))


def log_gamma(x: Expression) -> Expression:
    """Logarithm of the gamma function: log Γ(n + 1) = log n!."""
    return _pt().gammaln(x)


class Risk(NamedTuple):
    """An endpoint (its position) that is the time of an event.

    ``is_integrated``: whether its hazard is integrated with the equations. ``constant``: covariates of a hazard in
    closed form, which must not change in time.
    """

    endpoint: int
    is_integrated: bool
    constant: tuple[str, ...]


# of a state that is a cumulative hazard, plus this: solvers' tolerances are relative to a state's size, and a hazard's
# integral, a part of a log density, needs an absolute one
BEGIN = 1.0


@dataclass(frozen=True)
class SymbolicSystem:
    """PyTensor scalars of a structural model: inputs (time, states, ...) and results.

    ``outputs``: of every endpoint the prediction, or the log density of an observation, whose value is ``observed``;
    after these the arguments of all likelihoods. ``likelihoods``: of every endpoint, None where it is predicted.
    ``events``: endpoints that are times of events. Each adds a covariate after the model's own, and each with a hazard
    that is integrated two states after the model's own (:class:`models.nlme.model.time_to_event.Event`).
    ``dosing``: lag, bioavailability, rate and duration of each state in turn (4n), or empty.
    """

    time: Any
    states: list[Any]
    parameters: list[Any]
    covariates: list[Any]
    derivatives: list[Any]
    outputs: list[Any]
    initial: list[Any]
    dosing: list[Any]
    observed: Any
    likelihoods: tuple[Likelihood | None, ...]
    events: tuple[Risk, ...]


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
    observed, written = pt.dscalar("observed"), dict[str, Any]()
    if model.likelihood is not None:
        written = _called(model, "likelihood", model.likelihood, (time, x, p), alone=model.endpoints[-1])
    initial = _called(model, "initial", model.initial, (p,)) if model.initial else {}
    dosing = _called(model, "dosing", model.dosing, (p,)) if model.dosing else {}
    for what, given, wanted, known in (
        ("equations", equations, set(model.states), model.states),
        ("initial values", initial, set(initial), model.states),
        ("outputs", outputs, set(model.endpoints) - set(written), model.endpoints),
        ("likelihoods", written, set(written), model.endpoints),
        ("dosing", dosing, set(dosing), model.states),
        *((f"dosing of {state}", values, set(values), MODIFIERS) for state, values in dosing.items()),
    ):
        if set(given) != wanted or not set(given) <= set(known):
            message = f"structural model {model.name!r} has {what} that do not match"
            raise ConfigError(message, expected=list(known), got=sorted(given))

    likelihoods, risks, hidden, intervals = dict[str, Likelihood](), list[Risk](), dict[Any, Any](), list[Any]()
    for number, name in enumerate(model.endpoints):
        own = written.get(name)
        if isinstance(own, UnresolvedEvent):
            intervals.append(pt.dscalar(f"interval_{name}"))
            if own.integrated is not None:
                total, before = pt.dscalar(f"cumulative_{name}"), pt.dscalar(f"before_{name}")
                hidden |= {total: own.integrated, before: own.integrated * pt.maximum(intervals[-1], 0.0)}
                own = own.accumulated(intervals[-1], total - BEGIN, before - BEGIN)
                risks.append(Risk(number, True, ()))
            else:
                fixed, own = own.constant, own.in_closed_form(time, intervals[-1])
                found = _constant(model, name, own, fixed, {*states.values()}, covariates, time)
                risks.append(Risk(number, False, found))
        elif own is not None and not isinstance(own, Likelihood):
            what = f"structural model {model.name!r} has a likelihood that is none"
            expected = "Poisson, NegativeBinomial, Ordinal or TimeToEvent of models.nlme.model"
            raise ConfigError(what, where=f"endpoint {name}", expected=expected, got=own)
        if own is not None:
            likelihoods[name] = own

    def scalars(expressions: Iterable[Expression]) -> list[Any]:
        return [_scalar(model, expression) for expression in expressions]

    outputs |= {name: own.log_density(observed) for name, own in likelihoods.items()}
    ordered = tuple(likelihoods.get(name) for name in model.endpoints)
    arguments = [one for own in ordered if own is not None for one in own.arguments]
    usual = {"lag": 0.0, "bioavailability": 1.0, "rate": 0.0, "duration": 0.0}
    modifiers = [(usual | dosing.get(state, {}))[name] for state in model.states for name in MODIFIERS]
    return SymbolicSystem(
        time,
        [*states.values(), *hidden],
        list(parameters.values()),
        [*covariates.values(), *intervals],
        scalars([*(equations[name] for name in model.states), *hidden.values()]),
        scalars([*(outputs[name] for name in model.endpoints), *arguments]),
        scalars([*(initial.get(name, 0.0) for name in model.states), *(BEGIN for _ in hidden)]),
        scalars(modifiers) if dosing else [],
        observed,
        ordered,
        tuple(risks),
    )


def _constant(
    model: StructuralModel, endpoint: str, own: Likelihood, fixed: Expression | None, states: set[Any],
    covariates: Mapping[str, Any], time: Any,
) -> tuple[str, ...]:  # fmt: skip
    """Covariates of a cumulative hazard in closed form; ConfigError if it depends on a state, or its ratio on time."""
    from pytensor.graph.traversal import ancestors

    found = set(ancestors([_scalar(model, own.arguments[0])]))
    if found & states or (fixed is not None and time in set(ancestors([_scalar(model, fixed)]))):
        what = f"structural model {model.name!r} has a closed-form hazard with a state, or a log_ratio with time"
        raise ConfigError(what, where=f"endpoint {endpoint}", do="write TimeToEvent(hazard=...), which is integrated")
    return tuple(name for name, variable in covariates.items() if variable in found)


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


@lru_cache(maxsize=64)
def likelihoods_of(model: StructuralModel) -> tuple[Likelihood | None, ...]:
    """The likelihood of every endpoint, None of one with residual error; traces only models that have any."""
    return (None,) * len(model.endpoints) if model.likelihood is None else trace(model).likelihoods


@lru_cache(maxsize=64)
def risks_of(model: StructuralModel) -> tuple[Risk, ...]:
    """The endpoints that are times of events; traces only models that have a likelihood."""
    return () if model.likelihood is None else trace(model).events


def depends_on_time(model: StructuralModel) -> bool:
    """Whether time itself occurs in the model's equations or outputs."""
    from pytensor.graph.traversal import ancestors

    system = trace(model)
    return system.time in set(ancestors([*system.derivatives, *system.outputs]))


def _pt() -> Any:
    import pytensor.tensor as pt

    return pt
