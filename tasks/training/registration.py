"""What becomes of trained networks: turned to the axes that survive best, measured, shown, registered as a version."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.imaging.backends import (
    DiffusionImages,
    ImageModel,
    VAEImages,
    assemble_diffusion,
    assemble_vae,
    diffusion_weights,
    find_recoverable_axes,
)
from image_longitudinal.models.quality.gallery import noise_to_image, traversal, triptychs
from image_longitudinal.models.quality.model_metrics import measure_model
from image_longitudinal.models.quality.recoverability import choose_entries
from image_longitudinal.models.registry.promotion import promote
from image_longitudinal.models.registry.registry import CANDIDATE, ModelVersion, Registry
from image_longitudinal.models.training.tensors import ImageRows, default_device, load_tensors, tensors_digest
from image_longitudinal.models.vae.importance import importance
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.storage.scans.prepared import ImageView, PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.reports.model_figures import model_pictures, quality_rows
from image_longitudinal.tasks.reports.pictures import picture
from image_longitudinal.tasks.workspace import Workspace

MEASURING_VERSION = 2  # raise it whenever the same networks would be measured or shown otherwise
RANDOM_EFFECTS = 3  # entries that the metric "recoverability" asks for: as many become η in the original's outcomes
EXAMPLES = 24  # held-out images kept with a model, to show beside generated ones


@task(name="register-model", task_run_name="measure and register", **CACHED)
@holds_gpu_slots
def register_model(
    key: str,
    workspace: str,
    prepared: str,
    config: Config,
    vae: dict[str, str],
    diffusion: dict[str, str] | None,
    pretrained: str | None,
) -> str:
    """Measure what the finished generator keeps of z, and register weights, figures and card as one version.

    Args:
        key: see :func:`tasks.training.training.training_key`.
        workspace: its root; the registry is there.
        prepared: folder of the images trained on.
        config: what was trained.
        vae, diffusion: files that the trainings left, as ``weights`` and ``figures``.
        pretrained: digest of what the diffusion model started from.

    Returns:
        The version's name.
    """
    images = open_prepared(prepared)
    weights = {"vae": load_tensors(Path(vae["weights"]))[0]}
    figures: dict[str, Any] = {"vae": json.loads(Path(vae["figures"]).read_text())}
    metadata: dict[str, Any] = {
        "seed": config.seed,
        "vae": config.vae.model_dump(mode="json"),
        "images": {"digest": images.digest, "source": images.manifest["source"], "counts": images.manifest["counts"]},
        "figures": figures,
    }
    if diffusion is not None:
        weights["diffusion"] = load_tensors(Path(diffusion["weights"]))[0]
        figures["diffusion"] = json.loads(Path(diffusion["figures"]).read_text())
        metadata["diffusion"] = config.diffusion.model_dump(mode="json")
        metadata["residual_scale"] = figures["diffusion"].pop("residual_scale")
        metadata["pretrained"] = pretrained
    size = config.diffusion.image_size if diffusion else config.vae.image_size
    held_out = images.split("test")
    weights["examples"] = {"images": torch.from_numpy(images.images(size)[held_out[:EXAMPLES]].copy())}

    probe, device = config.probe, default_device(config.compute.device)
    network = assemble_vae(metadata, weights["vae"]).to(device)
    model: ImageModel = VAEImages(network, digest="")
    generator = None
    if diffusion is not None:
        generator = assemble_diffusion(metadata, network, weights["diffusion"])
        metadata["borrowed"] = tensors_digest(generator.borrowed_state())
        generator.to(device)
        model = DiffusionImages(generator, probe.scheduler, probe.steps, device, digest="")
    settings = {"n": probe.n_images, "batch_size": probe.batch_size, "seed": config.seed}
    axes = find_recoverable_axes(model, network, **settings)
    network.rotate(axes)
    weights["vae"] = network.state_dict()
    if generator is not None:
        generator.rotate(axes)
        weights["diffusion"] = diffusion_weights(generator)
    metadata |= {
        "training_key": key,
        "backend": "diffusion" if diffusion else "vae",
        **measured(model, network, images, config),
    }
    weights["gallery"] = _gallery(model, generator, network, images.images(size)[held_out[:EXAMPLES]], metadata, config)
    registry = Workspace.at(workspace).registry
    version = registry.register(weights, metadata, model_card(metadata))
    registry.set_alias(CANDIDATE, version.version)
    _promote_if_no_worse(registry, version)
    show(version)
    return version.version


def measured(model: ImageModel, vae: VAE, images: PreparedImages, config: Config) -> dict[str, Any]:
    """What is measured of a finished model by ``config.probe``, as a version records it.

    Args:
        model: makes images from z as its VAE's entries are turned by now.
        vae: its VAE, on the model's device.
        images: those it was trained on.
        config: the probe, the seed of every draw, the device.
    """
    ranked = importance(vae, config.seed)
    size, probe = model.image_size, config.probe
    train, held_out = images.rows(size, "train"), _held_out(images, size)
    found = measure_model(model, vae, train, held_out, probe, config.seed, config.compute.device)
    entries = choose_entries(found.recoverability, len(found.recoverability))
    return {
        "recoverability": found.recoverability,
        "noise_spread": found.noise_spread,
        "read_by": found.read_by,
        "importance": asdict(ranked),
        "quality": found.quality,
        "memory": found.memory,
        "metrics": {
            "recoverability": found.recoverability[entries[min(RANDOM_EFFECTS, len(entries)) - 1]],
            **found.metrics,
        },
        "held_out": held_out_digest(images, size),
        "probe": probe.model_dump(mode="json"),
        "entries": entries,
    }


def _gallery(
    model: ImageModel,
    generator: DiffusionModel | None,
    vae: VAE,
    held_out: NDArray[np.uint8],
    metadata: dict[str, Any],
    config: Config,
) -> dict[str, torch.Tensor]:
    """The arrays of :mod:`models.quality.gallery`, as they lie in the registry: uint8."""
    probe = config.probe
    shown = {"traversal": traversal(model, metadata["entries"], probe.batch_size)}
    if len(held_out):
        shown["triptychs"] = triptychs(model, vae, held_out, probe.batch_size)
    if generator is not None:
        where = default_device(config.compute.device)
        shown["noise_to_image"] = noise_to_image(
            generator, config.seed, scheduler=probe.scheduler, steps=probe.steps, device=where
        )
    return {name: torch.from_numpy(images) for name, images in shown.items()}


def held_out_digest(images: PreparedImages, size: int) -> str:
    """Names the images that figures of a model are measured on: figures of two models compare if it is the same."""
    records = images.manifest["images"]
    return digest_of(size, [records[i]["sha256"] for i in _held_out_index(images)])


def _held_out(images: PreparedImages, size: int) -> ImageRows:
    """Images of patients that no network was trained on: both other splits, for one of them alone is often small."""
    return ImageView(images.images(size), _held_out_index(images))


def _held_out_index(images: PreparedImages) -> NDArray[np.int64]:
    return np.sort(np.concatenate([images.split("validation"), images.split("test")]))


def show(version: ModelVersion) -> None:
    """Figures and pictures of a version, as artifacts of the run."""
    told = version.metadata
    create_table_artifact(
        [
            {
                "entry": entry,
                "recoverability R2": round(told["recoverability"][entry], 4),
                "sd over noise seeds": round(told["noise_spread"][entry], 4),
            }
            for entry in told["entries"]
        ],
        key="recoverability",
        description=f"Model {version.version}: z read back from generated images by the {told['read_by']}, best first",
    )
    pictures = model_pictures(version)
    create_markdown_artifact(
        "\n\n".join(f"**{name}**\n\n{picture(image, name)}" for name, image in pictures.items()),
        key="model-pictures",
        description=f"Model {version.version}: what its entries do, how images come about, what is kept of a scan",
    )
    if told["quality"]:
        create_table_artifact(
            quality_rows(told),
            key="image-quality",
            description=f"Model {version.version}: generated beside real images",
        )


def _promote_if_no_worse(registry: Registry, version: ModelVersion) -> None:
    logger = get_run_logger()
    try:
        comparisons = promote(registry, version.version)
    except ModelError as error:
        logger.warning(f"model {version.version} stays a candidate: {error}")
        return
    logger.info(f"model {version.version} is production now{''.join(f'; {one}' for one in comparisons)}")
