"""Gates: numbers that a model or a data set has to reach before it goes on, each with its reason.

A gate decides whether there will be a model or a data set, never what it is. What was not measured has not passed; it
stops no run, and every record says that it is unknown.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from pydantic import Field

from image_longitudinal.core.errors import ConfigError, RefusedByGateError, did_you_mean
from image_longitudinal.core.names import Label
from image_longitudinal.core.section import Section

GateKind = Literal["latents", "recoverability", "fidelity", "copies"]  # what a person names to accept it
KINDS: tuple[GateKind, ...] = get_args(GateKind)
Stage = Literal["before diffusion", "model", "data set"]

REASONS: dict[GateKind, str] = {
    "latents": "a diffusion model shows no more of z than it is given",
    "recoverability": "what images do not show, nobody can predict from them",
    "fidelity": "scans blurred by 1.5 of 64 pixels are at 38 floors, with shuffled columns at 29",
    "copies": "a twentieth of new patients' scans is as near to a training scan",
}


class GatesConfig(Section):
    """What a model and a data set have to reach; ``--accept KIND`` lets one pass that does not."""

    latents: float = Field(
        0.8, le=1, description="Least R² of z, third-best dimension, in what the VAE says of it before diffusion is "
        f"trained: {REASONS['latents']}.",
    )  # fmt: skip
    recoverability: float = Field(
        0.8, le=1, description="Least R² of every random effect's part of z, read back from finished images: "
        f"{REASONS['recoverability']}.",
    )  # fmt: skip
    fidelity: float = Field(
        50.0, gt=0, description="Most floors of the independent judge (1: scans of other patients): "
        f"{REASONS['fidelity']}.",
    )  # fmt: skip
    copies: float = Field(
        0.25, ge=0, le=1, description=f"Largest share of images that are near copies of training images: "
        f"{REASONS['copies']}. Few scans allow what they reach by chance.",
    )  # fmt: skip


class Bar(Section):
    """A value to reach (``better`` higher) or not to exceed (lower), and why it is where it is."""

    value: float
    better: Literal["higher", "lower"]
    reason: Label


class Gate(Section):
    """The result of one gate: what was found of ``name``, and whether a person has accepted less (``accepted``).

    ``value`` is None if it was not measured, for the reason ``missing``.
    """

    stage: Stage
    kind: GateKind
    name: Label
    value: float | None
    bar: Bar
    accepted: bool = False
    missing: Label | None = None

    @property
    def passed(self) -> bool:
        """Whether the value reaches the bar; one that is exactly there does, one that was not measured does not."""
        if self.value is None:
            return False
        return self.value >= self.bar.value if self.bar.better == "higher" else self.value <= self.bar.value

    @property
    def is_open(self) -> bool:
        """Whether a run may go on: passed, accepted on purpose, or unknown."""
        return self.passed or self.accepted or self.value is None

    @property
    def verdict(self) -> str:
        """``passed``, ``accepted on purpose``, ``not measured`` or ``FAILED``."""
        if self.value is None:
            return "not measured"
        return "passed" if self.passed else "accepted on purpose" if self.accepted else "FAILED"

    @property
    def wanted(self) -> str:
        """The bar in words, such as ``at least 0.8``."""
        return f"{'at least' if self.bar.better == 'higher' else 'at most'} {self.bar.value:.3g}"

    @property
    def found(self) -> str:
        """The value in words, or why there is none."""
        return f"not measured ({self.missing})" if self.value is None else f"{self.value:.3g}"

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: {self.found}; {self.wanted} wanted ({self.bar.reason})"
        return f"{self.name} {self.found}, {self.wanted} wanted ({self.bar.reason}): {self.verdict}"


def gate(stage: Stage, kind: GateKind, name: str, value: float | None, bars: GatesConfig, **others: Any) -> Gate:
    """A gate of this kind with the configuration's bar; ``others``: further fields, such as ``missing``."""
    better: Literal["higher", "lower"] = "lower" if kind in ("fidelity", "copies") else "higher"
    bar = Bar(value=getattr(bars, kind), better=better, reason=REASONS[kind])
    rounded = None if value is None else round(value, 4)  # further digits depend on the machine
    return Gate(stage=stage, kind=kind, name=name, value=rounded, **{"bar": bar, **others})


def accepting(gates: Iterable[Gate], accept: Iterable[GateKind]) -> tuple[Gate, ...]:
    """The same gates, those that failed marked as accepted if a person has named their kind."""
    kinds = set(accept)
    return tuple(
        one.model_copy(update={"accepted": True}) if one.kind in kinds and not one.is_open else one for one in gates
    )


def closed(gates: Iterable[Gate]) -> list[Gate]:
    """The gates that stop a run."""
    return [gate for gate in gates if not gate.is_open]


def require_open(gates: Iterable[Gate], what: str, where: object = None) -> None:
    """Go on only if no gate is closed.

    Args:
        gates: with what was accepted (:func:`accepting`).
        what: what does not happen otherwise, such as "the model is not registered".
        where: the thing that was measured.

    Raises:
        RefusedByGateError: a gate is closed; names all that are, and what to give to go on all the same.
    """
    if failed := closed(gates):
        options = " ".join(f"--accept {kind}" for kind in dict.fromkeys(one.kind for one in failed))
        raise RefusedByGateError(
            f"{what}: {'; '.join(map(str, failed))}", where=where,
            do=f"train longer or on more images, or give the same command with {options} to go on all the same",
        )  # fmt: skip


def gate_rows(gates: Iterable[Gate]) -> list[dict[str, str]]:
    """One row per gate, for tables that people read."""
    return [
        {"when": one.stage, "gate": one.kind, "measured": one.name, "found": one.found, "wanted": one.wanted,
         "verdict": one.verdict, "reason": one.bar.reason}
        for one in gates
    ]  # fmt: skip


def accepted_kinds(names: Sequence[str] | None) -> tuple[GateKind, ...]:
    """The kinds that a person has named.

    Raises:
        ConfigError: there is no gate of that kind.
    """
    for name in names or ():
        if name not in KINDS:
            do = did_you_mean(name, KINDS)
            raise ConfigError("no such gate", expected=f"one of {', '.join(KINDS)}", got=name, do=do)
    return tuple(kind for kind in KINDS if names and kind in names)
