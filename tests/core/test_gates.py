"""Gates: what passes, what a person may accept, what is unknown, and what stops a run."""

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError, RefusedByGateError
from image_longitudinal.core.gates import (
    KINDS,
    REASONS,
    GateKind,
    GatesConfig,
    accepted_kinds,
    accepting,
    closed,
    gate,
    gate_rows,
    require_open,
)
from image_longitudinal.core.presets import load_config, preset_names

BARS = GatesConfig()
POOR = gate("model", "recoverability", "third-best dimension, R²", 0.62, BARS)
FAR = gate("model", "fidelity", "outside judge, floors", 56.8, BARS)
UNKNOWN = gate("model", "copies", "near copies, share", None, BARS, missing="no judge is installed")


@pytest.mark.parametrize(
    ("kind", "value", "passed"),
    [("fidelity", 49.9, True), ("fidelity", 50.0, True), ("fidelity", 50.1, False), ("copies", 0.3, False),
     ("recoverability", 0.81, True), ("latents", 0.8, True), ("recoverability", -0.03, False)],
)  # fmt: skip
def test_a_gate_passes_on_the_right_side_of_its_bar(kind: GateKind, value: float, passed: bool) -> None:
    one = gate("model", kind, "some figure", value, BARS)
    assert one.passed == one.is_open == passed
    assert str(one).endswith("passed" if passed else "FAILED")


def test_what_is_accepted_on_purpose_stays_visible_as_a_failure() -> None:
    gates = accepting([FAR, POOR], ["fidelity"])
    assert not gates[0].passed
    assert gates[0].is_open
    assert closed(gates) == [POOR]
    assert str(gates[0]) == (
        f"outside judge, floors 56.8, at most 50 wanted ({REASONS['fidelity']}): accepted on purpose"
    )
    passing = gate("model", "fidelity", "outside judge, floors", 5.5, BARS)
    assert accepting([passing], ["fidelity"]) == (passing,), "a gate that passes needs nobody's consent"


def test_what_was_not_measured_has_not_passed_and_stops_nothing() -> None:
    assert not UNKNOWN.passed
    assert UNKNOWN.is_open
    assert UNKNOWN.verdict == "not measured"
    assert str(UNKNOWN).startswith("near copies, share: not measured (no judge is installed); at most 0.25 wanted")
    require_open([UNKNOWN], "nothing happens")
    assert accepting([UNKNOWN], KINDS) == (UNKNOWN,)


def test_a_closed_gate_names_what_failed_and_how_to_go_on() -> None:
    with pytest.raises(RefusedByGateError, match=r"not published: third-best.*0\.62.*--accept recoverability") as one:
        require_open([POOR, UNKNOWN], "the data set is not published")
    assert one.value.exit_status == 4
    assert "--accept copies" not in str(one.value)
    require_open(accepting([POOR, FAR], ["recoverability", "fidelity"]), "nothing happens")


def test_tables_show_kind_figure_bar_verdict_and_reason() -> None:
    rows = gate_rows([POOR, UNKNOWN])
    assert [(row["gate"], row["found"], row["wanted"], row["verdict"]) for row in rows] == [
        ("recoverability", "0.62", "at least 0.8", "FAILED"),
        ("copies", "not measured (no judge is installed)", "at most 0.25", "not measured"),
    ]
    assert rows[0]["reason"] == REASONS["recoverability"]


def test_kinds_are_named_by_people() -> None:
    assert accepted_kinds(None) == ()
    assert accepted_kinds(["fidelity", "latents", "fidelity"]) == ("latents", "fidelity")
    with pytest.raises(ConfigError, match=r"no such gate; expected one of latents.*got fidelty. Did you mean fidelity"):
        accepted_kinds(["fidelty"])


def test_every_bar_has_its_reason_in_the_configuration_and_changes_no_data_set() -> None:
    for kind in KINDS:
        assert REASONS[kind] in str(GatesConfig.model_fields[kind].description)
    for name in set(preset_names()) - {"sites", "demo"}:  # images shifted on purpose, and phantoms
        assert "gates" not in load_config(name).recorded, "what data sets record of a preset is as before"
    assert Config(gates=GatesConfig(fidelity=20.0)).recorded["gates"]["fidelity"] == 20
