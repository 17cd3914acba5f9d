"""Retraining on a folder of scans that grows: what is new, who is held out, and when production changes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prefect.artifacts import Artifact

from image_longitudinal.core.config import Config
from image_longitudinal.flows.retrain_models import retrain_models
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, render
from image_longitudinal.models.registry.promotion import GATE, compare
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]


def add_scans(folder: Path, patients: range, number: int = 1) -> None:
    """One phantom image per patient, as a scanner would name it."""
    folder.mkdir(exist_ok=True)
    latents = np.random.default_rng([patients.start, number]).standard_normal((len(patients), len(LATENT_NAMES)))
    images = render(latents.astype(np.float32), np.arange(len(patients)) + 100 * number, 64)
    for patient, image in zip(patients, images, strict=True):
        Image.fromarray(image).save(folder / f"NORMAL-{patient}-{number}.png")


def comparison() -> str:
    found = Artifact.get("model-comparison")
    assert found is not None
    return f"{found.description} {found.data}"


def prepared_for(workspace: Workspace, version: ModelVersion) -> PreparedImages:
    every = [open_prepared(path.parent) for path in (workspace.root / "images").glob("*/manifest.json")]
    (images,) = [one for one in every if one.digest == version.metadata.images.digest]
    return images


def held_out(images: PreparedImages) -> dict[str, str]:
    return {one.file: one.split for one in images.manifest.images if one.split != "train"}


def test_a_growing_folder_is_trained_on_and_production_never_gets_worse(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    config = tiny("generator.backend=vae", "images.min_images=20", "images.validation_fraction=0.2")
    folder, workspace = tmp_path / "scans", Workspace.at(tmp_path / "work")
    arguments = {"config": config, "workspace": str(workspace.root)}
    add_scans(folder, range(40))
    first = retrain_models(str(folder), **arguments)
    assert first == workspace.registry.get("production").version
    assert "no production model" in comparison()

    assert retrain_models(str(folder), **arguments) is None
    assert "nothing new" in comparison()
    assert "40 scans" in comparison()

    before = prepared_for(workspace, workspace.registry.get("production"))
    out = held_out(before)
    patient = int(next(iter(out)).split("-")[1])
    add_scans(folder, range(40, 52))
    add_scans(folder, range(patient, patient + 1), number=2)
    second = workspace.registry.get(retrain_models(str(folder), **arguments) or "")
    assert second.version != first
    now = prepared_for(workspace, second)
    assert held_out(now) == out
    assert len(now) == 52
    assert [item.file for item in now.manifest.set_aside] == [f"NORMAL-{patient}-2.png"]

    one = workspace.registry.get(first)
    verdict = all(metric.no_worse for metric in compare(second, one, GATE))
    assert (workspace.registry.get("production") == second) == verdict
    shown = comparison()
    assert f"{second.version} {'is production now' if verdict else 'stays a candidate'}" in shown
    rows = json.loads(shown[shown.index("[") :])
    assert {row["metric"] for row in rows} >= set(GATE)
    assert retrain_models(str(folder), **arguments) is None
