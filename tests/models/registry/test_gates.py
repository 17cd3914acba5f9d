"""Gates: what passes, what a person may accept, and what stops a run."""

import pytest

from image_longitudinal.models.registry.gates import Bar, Gate, closed

FLOORS = Bar(value=6.0, better="lower", reason="at 6 floors most images pass for scans")
READABLE = Bar(value=0.8, better="higher", reason="what the preset promises")


@pytest.mark.parametrize(
    ("bar", "value", "passed"),
    [(FLOORS, 5.9, True), (FLOORS, 6.0, True), (FLOORS, 6.1, False),
     (READABLE, 0.81, True), (READABLE, 0.8, True), (READABLE, -0.03, False)],
)  # fmt: skip
def test_a_gate_passes_on_the_right_side_of_its_bar(bar: Bar, value: float, passed: bool) -> None:
    gate = Gate(kind="fidelity", name="outside judge, floors", value=value, bar=bar)
    assert gate.passed == gate.is_open == passed
    assert str(gate).endswith("passed" if passed else "FAILED")


def test_what_is_accepted_on_purpose_stays_visible_as_a_failure() -> None:
    gates = [
        Gate(kind="fidelity", name="outside judge, floors", value=56.8, bar=FLOORS, accepted=True),
        Gate(kind="recoverability", name="third effect, R²", value=0.62, bar=READABLE),
    ]
    assert not gates[0].passed
    assert gates[0].is_open
    assert closed(gates) == gates[1:]
    assert str(gates[0]) == (
        "outside judge, floors 56.8, at most 6 wanted (at 6 floors most images pass for scans): accepted on purpose"
    )
