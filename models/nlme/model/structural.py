"""Structural models: states, parameters and a right-hand side written once, as symbolic expressions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.endpoint_likelihood import Likelihood, UnresolvedEvent

Expression = Any  # a PyTensor scalar or a number; not typed as such because PyTensor is imported only when it is used
Equations = Callable[[Expression, SimpleNamespace, SimpleNamespace], Mapping[str, Expression]]
Output = Callable[[Expression, SimpleNamespace, SimpleNamespace], Expression | Mapping[str, Expression]]
Written = Likelihood | UnresolvedEvent  # a likelihood as a model file writes it
LikelihoodOf = Callable[[Expression, SimpleNamespace, SimpleNamespace], Written | Mapping[str, Written]]
Initial = Callable[[SimpleNamespace], Mapping[str, Expression]]
Dosing = Callable[[SimpleNamespace], Mapping[str, Mapping[str, Expression]]]
OCCASION = "occ"  # the covariate that numbers a subject's occasions 1, 2, ...
SINCE_DOSE = "tad"  # the covariate that is the time since the last dose
ARM = "arm"  # the covariate that numbers a trial's arms 0, 1, ...
MODIFIERS = ("lag", "bioavailability", "rate", "duration")  # of doses into a state, which a model may define


def _nothing(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> dict[str, Any]:
    """No equations, or no predicted output."""
    return {}


@dataclass(frozen=True)
class StructuralModel:
    """Named states and parameters, their differential equations (or none: a closed form), and the observed outputs.

    The functions are called once with PyTensor scalars (``p.ka``, ``x.depot``, a covariate ``p.weight``) and return
    expressions; ordinary operators and the functions of :mod:`models.nlme.model.symbolic` may be used. Everything else
    (compiled kernels, Jacobians, sensitivities, PyMC models) is derived from these expressions.

    Args:
        name: of the model, for messages.
        states: state names; doses go to a state by its name or its 1-based number (NM-TRAN's CMT). None for a model
            in closed form, whose output is a formula in time and parameters.
        parameters: names of the individual parameters, in the order of arrays (n, p).
        rhs: (t, x, p) → time derivative of every state; not needed without states.
        output: (t, x, p) → the noise-free prediction; with several endpoints, one for each by name. Not needed if all
            endpoints have a likelihood.
        initial: p → states at the first record and after a reset, if they are not zero (e.g. a baseline response).
        covariates: names of known inputs, constant or varying in time, found among the parameters ``p``; ``tad``, time
            since the last nominal dose (0 before the first), is derived from the doses.
        endpoints: names of the observed outputs, in the order of NM-TRAN's or Monolix' DVID (1, 2, ...).
        dosing: p → for each state concerned a mapping with some of ``lag`` (time), ``bioavailability`` (fraction),
            ``rate`` (amount per time) and ``duration`` (time) of the doses into it; the last two are used by doses
            with RATE -1 and -2.
        kernel: dotted name of a module with a hand-written ``run`` that replaces the generated one if every event is a
            dose of known amount and rate (a test must show that they agree), or None.
        endpoint_compartments: CMT of each endpoint's observations in tables without DVID: the number of the state that
            is observed, or a number after the last state; none if several endpoints are told by DVID alone.
        likelihood: (t, x, p) → the likelihood (:mod:`models.nlme.model.likelihoods`,
            :mod:`models.nlme.model.time_to_event`) of each endpoint that has no residual error, by name, or of the
            last endpoint alone; None if all have residual error.
        occasions: how many occasions the covariate ``occ`` tells apart; 0 without inter-occasion variability.

    Raises:
        ConfigError: names that repeat or are no identifiers, or a hand-written kernel of a model with a likelihood.
    """

    name: str
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    rhs: Equations = field(default=_nothing, repr=False)
    output: Output = field(default=_nothing, repr=False)
    initial: Initial | None = field(default=None, repr=False)
    kernel: str | None = None
    covariates: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ("outcome",)
    dosing: Dosing | None = field(default=None, repr=False)
    endpoint_compartments: tuple[int, ...] = ()
    occasions: int = 0
    likelihood: LikelihoodOf | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        named = {"state": self.states, "parameter": self.parameters, "endpoint": self.endpoints}
        for kind, names in (named | {"covariate": (*self.covariates, *self.parameters)}).items():
            distinct = len(set(names)) == len(names) and all(name.isidentifier() for name in names)
            if not distinct or (kind in ("parameter", "endpoint") and not names):
                expected = "distinct identifiers (at least one parameter and one endpoint)"
                what = f"structural model {self.name!r} has unusable {kind} names"
                raise ConfigError(what, expected=expected, got=list(names))
        if self.kernel and self.likelihood:
            raise ConfigError(f"structural model {self.name!r} has a likelihood, which its kernel does not compute")
        places, count = self.endpoint_compartments, len(self.endpoints)
        if places and (not len(set(places)) == len(places) == count or min(places) < 1):
            what = f"structural model {self.name!r} has unusable compartments of endpoints"
            raise ConfigError(what, expected=f"{count} distinct numbers from 1 on", got=list(places))

    def state_index(self, compartment: str | int) -> int:
        """0-based index of a compartment given by name or by 1-based number; ConfigError if there is none."""
        if isinstance(compartment, str) and compartment in self.states:
            return self.states.index(compartment)
        if isinstance(compartment, int) and 1 <= compartment <= len(self.states):
            return compartment - 1
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(self.states, 1))
        what = f"dose to a compartment that model {self.name!r} does not have"
        raise ConfigError(what, expected=numbered, got=repr(compartment))

    def endpoint_index(self, name: str) -> int:
        """0-based index of an endpoint; ConfigError if there is none of that name."""
        if name not in self.endpoints:
            expected = ", ".join(self.endpoints)
            raise ConfigError(f"model {self.name!r} has no such endpoint", expected=expected, got=repr(name))
        return self.endpoints.index(name)


def given_covariates(model: StructuralModel) -> tuple[str, ...]:
    """The model's covariates that a table or a design must give: all but the time since the last dose."""
    return tuple(name for name in model.covariates if name != SINCE_DOSE)
