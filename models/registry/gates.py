"""Gates: numbers that a model or a data set has to reach before it goes on, each with its reason."""

from collections.abc import Iterable
from typing import Literal

from image_longitudinal.core.config import Section

GateKind = Literal["latents", "fidelity", "anatomy", "copies", "recoverability"]


class Bar(Section):
    """A value to reach (``better`` higher) or not to exceed (lower), and why it is where it is."""

    value: float
    better: Literal["higher", "lower"]
    reason: str


class Gate(Section):
    """The result of one gate: what was found of ``name``, and whether a person has accepted less (``accepted``).

    ``kind`` is what a person names to accept it.
    """

    kind: GateKind
    name: str
    value: float
    bar: Bar
    accepted: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value reaches the bar; one that is exactly there does."""
        return self.value >= self.bar.value if self.bar.better == "higher" else self.value <= self.bar.value

    @property
    def is_open(self) -> bool:
        """Whether a run may go on: passed, or accepted on purpose."""
        return self.passed or self.accepted

    def __str__(self) -> str:
        side = "at least" if self.bar.better == "higher" else "at most"
        verdict = "passed" if self.passed else "accepted on purpose" if self.accepted else "FAILED"
        return f"{self.name} {self.value:.3g}, {side} {self.bar.value:.3g} wanted ({self.bar.reason}): {verdict}"


def closed(gates: Iterable[Gate]) -> list[Gate]:
    """The gates that stop a run."""
    return [gate for gate in gates if not gate.is_open]
