"""The gates of a model: from its figures, beside its version, and never part of which version it is."""

from pathlib import Path

import pytest
import torch

from image_longitudinal.core.errors import ModelError, RefusedByGateError
from image_longitudinal.core.gates import GatesConfig, accepting
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.registry.exchange import export_model
from image_longitudinal.models.registry.gates import GATES, NO_JUDGE, TOO_FEW, model_gates
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.models.registry.promotion import promote
from image_longitudinal.models.registry.registry import Registry, open_version
from image_longitudinal.storage.io.open import open_root
from tests.models.conftest import model_metadata

BARS = GatesConfig()
WEIGHTS = {"vae": {"a": torch.zeros(1)}}
POOR = model_metadata(recoverability=0.3, fd=60.0, judge="j" * 64)


def verdicts(measured: Measurement) -> dict[str, str]:
    return {one.kind: one.verdict for one in model_gates(measured, BARS)}


def test_a_judged_model_is_held_to_every_bar() -> None:
    good = model_metadata(recoverability=0.9, fd=5.0, judge="j" * 64).measured
    # The invented share of near copies is 0.5; what sets of real scans reach by chance, 0.55, is allowed.
    assert verdicts(good) == dict.fromkeys(("recoverability", "fidelity", "copies"), "passed")
    assert model_gates(good, BARS)[2].bar.value == 0.55
    assert verdicts(POOR.measured) == {"recoverability": "FAILED", "fidelity": "FAILED", "copies": "passed"}
    fewer = good.judgement.measures.near_copies.model_copy(update={"null_high": 0.1})  # type: ignore[union-attr]
    measures = good.judgement.measures.model_copy(update={"near_copies": fewer})  # type: ignore[union-attr]
    judged = good.judgement.model_copy(update={"measures": measures})  # type: ignore[union-attr]
    assert verdicts(good.model_copy(update={"judgement": judged}))["copies"] == "FAILED"


@pytest.mark.parametrize(("fd", "why"), [(2.0, NO_JUDGE), (None, TOO_FEW)])
def test_without_a_judge_its_gates_are_not_measured_whatever_the_own_encoder_says(fd: float | None, why: str) -> None:
    gates = {one.kind: one for one in model_gates(model_metadata(recoverability=0.9, fd=fd).measured, BARS)}
    assert gates["recoverability"].passed
    for kind in ("fidelity", "copies"):
        assert (gates[kind].verdict, gates[kind].missing) == ("not measured", why)  # type: ignore[index]


def test_the_least_readable_of_three_dimensions_counts() -> None:
    metadata = model_metadata(recoverability=0.9)
    figures = [0.99, 0.95, 0.62, 0.1, 0.0]
    measured = metadata.measured.model_copy(update={"recoverability": figures})
    assert model_gates(measured, BARS)[0].value == 0.62
    assert "z[2]" in model_gates(measured, BARS)[0].name


def test_bundled_models_pass_under_the_bars_of_every_preset() -> None:
    found = {name: verdicts(open_version(folder).metadata.measured) for name, folder in BUNDLED.items()}
    assert {one for gates in found.values() for one in gates.values()} <= {"passed", "not measured"}
    assert found["pretrained"] == dict.fromkeys(("recoverability", "fidelity", "copies"), "passed")


def test_gates_are_recorded_beside_a_version_which_they_do_not_change(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models", open_root(tmp_path / "shared"))
    version = registry.register(WEIGHTS, POOR, "# Card")
    assert version.gates == ()
    gates = accepting(model_gates(POOR.measured, BARS), ["recoverability"])
    registry.record_gates(version, gates, "# Card with gates")
    assert registry.get(version.version) == version
    assert (version.gates, version.card) == (gates, "# Card with gates")
    assert Registry(tmp_path / "elsewhere", open_root(tmp_path / "shared")).get(version.version).gates == gates
    export_model(version, open_root(tmp_path / "out"))
    assert Registry(tmp_path / "third").add(open_root(tmp_path / "out")).gates == gates
    path = version.folder / GATES
    for text in (path.read_bytes().replace(b"0.3", b"0.9"), b"[" * 100_000, b"\xff", b"[]"):
        path.write_bytes(text)
        with pytest.raises(ModelError, match="gates of a model are damaged"):
            _ = version.gates


def test_even_the_first_model_is_promoted_through_its_gates_only(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    poor = registry.register(WEIGHTS, POOR, "")
    for kinds in ((), ("recoverability",)):
        with pytest.raises(RefusedByGateError, match=r"is not promoted: .*--accept fidelity"):
            promote(registry, poor.version, accept=kinds)  # type: ignore[arg-type]
    assert registry.aliases() == {}
    promote(registry, poor.version, accept=("recoverability", "fidelity"))
    assert registry.get("production") == poor
    assert [one.kind for one in poor.gates if one.accepted] == ["recoverability", "fidelity"]
    promote(registry, poor.version)  # accepted before, and on record
