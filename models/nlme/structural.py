"""Structural models: states, parameters and a right-hand side written once, as symbolic expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from core.errors import ConfigError

Expression = (
    Any  # a PyTensor scalar (or a plain number); typed loosely so that PyTensor is imported only when it is used
)
Equations = Callable[[Expression, SimpleNamespace, SimpleNamespace], Mapping[str, Expression]]
Output = Callable[[Expression, SimpleNamespace, SimpleNamespace], Expression]
Initial = Callable[[SimpleNamespace], Mapping[str, Expression]]


@dataclass(frozen=True)
class StructuralModel:
    """Named states and parameters, their differential equations (or none: a closed form), and one observed output.

    The three functions are called once with PyTensor scalars (``p.ka``, ``x.depot``) and return expressions; ordinary
    operators and the functions of :mod:`models.nlme.symbolic` may be used. Everything else (compiled kernels,
    Jacobians, sensitivities, PyMC models) is derived from these expressions.

    Args:
        name: what people type.
        states: state names; doses go to a state by its name or its 1-based number (NM-TRAN's CMT). None for a model
            in closed form, whose output is a formula in time and parameters.
        parameters: names of the individual parameters, in the order of arrays (n, p).
        rhs: (t, x, p) → time derivative of every state.
        output: (t, x, p) → the noise-free prediction.
        initial: p → states at the first record, where they are not zero (e.g. a baseline response).
        kernel: dotted name ``module:function`` of a hand-made kernel that replaces the generated one (it must be
            proven equal by a test), or None.

    Raises:
        ConfigError: names that repeat or are no identifiers.
    """

    name: str
    states: tuple[str, ...]
    parameters: tuple[str, ...]
    rhs: Equations = field(repr=False)
    output: Output = field(repr=False)
    initial: Initial | None = field(default=None, repr=False)
    kernel: str | None = None

    def __post_init__(self) -> None:
        for kind, names in (("state", self.states), ("parameter", self.parameters)):
            if (
                (kind == "parameter" and not names)
                or len(set(names)) != len(names)
                or not all(name.isidentifier() for name in names)
            ):
                raise ConfigError(
                    f"structural model {self.name!r} has unusable {kind} names",
                    expected="distinct identifiers (and at least one parameter)",
                    got=list(names),
                )

    def state_index(self, compartment: str | int) -> int:
        """0-based index of a compartment given by name or by 1-based number; ConfigError if there is none."""
        if isinstance(compartment, str) and compartment in self.states:
            return self.states.index(compartment)
        if isinstance(compartment, int) and 1 <= compartment <= len(self.states):
            return compartment - 1
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(self.states, 1))
        raise ConfigError(
            f"dose to a compartment that model {self.name!r} does not have", expected=numbered, got=repr(compartment)
        )
