"""A model that learned nothing is stopped at every gate, and passes on purpose only, on record."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import RefusedByGateError
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

BARS = ("gates.latents=0.8", "gates.recoverability=0.8", "gates.fidelity=50", "gates.copies=0.25")  # the usual ones


def artifact(key: str) -> str:
    found = Artifact.get(key)
    assert found is not None, key
    return str(found.data)


def test_every_gate_refuses_what_says_nothing_of_z_and_lets_it_pass_on_purpose(
    tiny: Callable[..., Config],
    tiny_file: Path,
    tmp_path: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    work, data = Workspace.at(tmp_path / "work"), tmp_path / "data"
    overrides = (*BARS, "dataset.n_subjects=64", "generator.steps=3")  # other steps than the model is measured with
    config, where = tiny(*overrides), {"workspace": str(work.root)}

    with pytest.raises(RefusedByGateError, match=r"no diffusion model is trained.*own images.*--accept latents"):
        generate_dataset(str(data), config=config, **where)
    assert "FAILED" in artifact("gates-latents")
    assert not [path for path in work.root.rglob("*") if path.name.startswith("diffusion")]

    with pytest.raises(RefusedByGateError, match=r"is not registered.*--accept recoverability --accept fidelity"):
        train_models(config=config, accept=("latents",), **where)
    assert "FAILED" in artifact("gates-model")
    assert work.registry.versions() == []

    version = train_models(config=config, accept=("latents", "recoverability", "fidelity"), **where)
    assert work.registry.get("production") == version
    verdicts = {(one.kind, one.verdict) for one in version.gates}
    assert {("latents", "accepted on purpose"), ("recoverability", "accepted on purpose"),
            ("fidelity", "accepted on purpose"), ("copies", "passed")} <= verdicts  # fmt: skip
    assert "accepted on purpose" in version.card
    with pytest.raises(RefusedByGateError, match="no diffusion model is trained"):
        train_models(config=config, **where)  # who accepted it once did not accept it for everybody

    sets = [f"--set={one}" for one in overrides]
    arguments = ("generate", "--config", tiny_file, *sets, "--model", version.version, "--workspace", work.root,
                 "--output", data)  # fmt: skip
    refused = command(*arguments)
    assert refused.returncode == 4, refused.stderr
    assert "error: the data set is not published; its shards stay: η of" in refused.stderr
    assert "--accept recoverability" in refused.stderr
    assert "FAILED" in artifact("gates-data-set")
    assert not (data / "dataset.json").exists()
    assert (data / "shards" / "00000.json").exists()

    published = command(*arguments, "--accept", "recoverability")
    assert published.returncode == 0, published.stderr
    assert "accepted on purpose" in published.stderr
    manifest = open_dataset(data).manifest
    by_kind = {(one.stage, one.kind): one.verdict for one in manifest.gates or ()}
    assert by_kind["data set", "recoverability"] == "accepted on purpose"
    assert by_kind["model", "copies"] == "passed"
    found = manifest.readability
    assert found is not None
    assert found.finished
    assert min(found.eta) < 0.8
    for page in ("README.md", "report.html"):
        text = (data / page).read_text(encoding="utf-8")
        assert "accepted on purpose" in text
        assert "What can be read from the images" in text
    assert {float(row["designed"]) for row in json.loads(artifact("readable"))} == set(manifest.levels)
    shown = command("show", data)
    assert "accepted on purpose" in shown.stdout
    shown = command("models", "show", version.version, "--workspace", work.root)
    assert shown.stdout.count("accepted on purpose") > 3
