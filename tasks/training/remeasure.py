"""A registered version measured again by another probe: the same networks with other figures are another version."""

import torch
from prefect import task

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.assembly import load_diffusion, load_vae
from image_longitudinal.models.imaging.backends import probed_model
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.quality.gallery import traversal
from image_longitudinal.models.quality.model_metrics import measure_model
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.training.register import held_out_digest, real_images, registered_version, show
from image_longitudinal.tasks.training.spec import RemeasureSpec
from image_longitudinal.tasks.workspace import Workspace


def remeasured_model(
    version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace
) -> ModelVersion:
    """The registered version with these networks and the figures that ``config.probe`` measures.

    Raises:
        ModelError: the held-out images differ from those of the model's training.
    """
    recorded = version.metadata.measured.held_out
    if (found := held_out_digest(prepared, version.metadata.networks.image_size)) != recorded:
        raise ModelError(
            "not the images that were held out of the model's training", where=version.version,
            expected=f"images {recorded[:12]}", got=found[:12],
            do="name the scans it was trained on with --images, and the preset and seed that split them",
        )  # fmt: skip
    spec = RemeasureSpec.of(config, version, prepared.digest)
    return registered_version(register_remeasured, spec, config, prepared, workspace)


@task(name="measure-model", task_run_name="measure and register", **CACHED)
@holds_gpu_slots
def register_remeasured(key: str, spec: RemeasureSpec, prepared: str, workspace: str, compute: ComputeConfig) -> str:
    """Measure a version's networks, and register them with new figures, card and latent order."""
    registry, probe, device = Workspace.at(workspace).registry, spec.probe, default_device(compute.device)
    base, images = registry.get(spec.model), open_prepared(prepared)
    vae = load_vae(base).to(device)
    generator = load_diffusion(base).to(device) if base.metadata.networks.diffusion else None
    model = probed_model(vae, generator, probe, device)
    measured = measure_model(model, vae, real_images(images, model.image_size), probe, spec.seed, compute.device)
    metadata = base.metadata.model_copy(update={"measured": measured, "training_key": key})
    weights = base.all_tensors()
    if "gallery" in weights:
        traversed = traversal(model, measured.latent_order, probe.batch_size)
        weights["gallery"]["traversal"] = torch.from_numpy(traversed)
    registered = registry.register(weights, metadata, model_card(metadata))
    show(registered)
    return registered.version
