"""A registered version measured again, by another probe: the same networks and other figures are another version."""

from __future__ import annotations

from pathlib import Path

import torch
from prefect import task

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.backends import (
    DiffusionImages,
    ImageModel,
    VAEImages,
    assemble_diffusion,
    load_vae,
)
from image_longitudinal.models.quality.gallery import traversal
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.tensors import default_device
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh, key_of
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.training.registration import MEASURING_VERSION, held_out_digest, measured, show
from image_longitudinal.tasks.workspace import Workspace


def measured_version(version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace) -> str:
    """Name of the version that holds these networks and what ``config.probe`` finds of them.

    Raises:
        ModelError: other images were held out of its training than are held out of these.
    """
    told = version.metadata
    size = int(told[told["backend"]]["image_size"])
    if (held_out := held_out_digest(prepared, size)) != told["held_out"]:
        raise ModelError(
            "not the images that were held out of the model's training", where=version.version,
            expected=f"images {told['held_out'][:12]}", got=held_out[:12],
            do="name the scans it was trained on with --images, and the preset and seed that split them",
        )  # fmt: skip
    key = key_of(
        "measure", MEASURING_VERSION, model=version.digest, probe=config.probe, images=prepared.digest,
        seed=config.seed, torch=torch.__version__,
    )  # fmt: skip
    registry = workspace.registry
    return cached_or_fresh(
        register_measured, lambda _: registry.find(key) is not None, key=key, version=version.version,
        prepared=str(prepared.folder), config=config, workspace=str(workspace.root),
    )  # fmt: skip


@task(name="measure-model", task_run_name="measure and register", **CACHED)
@holds_gpu_slots
def register_measured(key: str, version: str, prepared: str, config: Config, workspace: str) -> str:
    """Measure a version's networks and register them with the new figures, a new card and the new order of entries."""
    registry = Workspace.at(workspace).registry
    base, images = registry.get(version), open_prepared(prepared)
    weights = {name: base.tensors(name) for name in (Path(file).stem for file in base.content["files"])}
    probe, device = config.probe, default_device(config.compute.device)
    vae = load_vae(base).to(device)
    model: ImageModel = VAEImages(vae, digest="")
    if "diffusion" in weights:
        generator = assemble_diffusion(base.metadata, vae, weights["diffusion"]).to(device)
        model = DiffusionImages(generator, probe.scheduler, probe.steps, device, digest="")
    metadata = {**base.metadata, **measured(model, vae, images, config), "training_key": key}
    if "gallery" in weights:
        weights["gallery"]["traversal"] = torch.from_numpy(traversal(model, metadata["entries"], probe.batch_size))
    again = registry.register(weights, metadata, model_card(metadata))
    show(again)
    return again.version
