"""Training tasks: each leaves its network in the workspace under the digest of what made it, and can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from prefect import task

from image_longitudinal.core.config import Config, DiffusionConfig
from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.residual import ResidualDiffusion
from image_longitudinal.models.diffusion.train import train_diffusion
from image_longitudinal.models.imaging.backends import diffusion_weights, needs_diffusion
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.processes import Report, rank, run_in_processes, training_processes
from image_longitudinal.models.training.tensors import ImageRows, load_tensors, save_tensors
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import build_vae, train_vae
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh, key_of
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.training.registration import MEASURING_VERSION, register_model
from image_longitudinal.tasks.workspace import Workspace

TRAINING_VERSION = 3  # raise it whenever the same data and configuration would give other weights


def training_key(config: Config, images_digest: str, start: ModelVersion | None = None) -> str:
    """Digest of everything that decides a trained model."""
    return key_of(
        "train-models",
        TRAINING_VERSION,
        images=images_digest,
        vae=config.vae,
        perception=_perception_digest(config),
        diffusion=config.diffusion if needs_diffusion(config.generator.backend) else None,
        pretrained=pretrained_digest(config.diffusion) if needs_diffusion(config.generator.backend) else None,
        probe=config.probe,
        measured=MEASURING_VERSION,
        seed=config.seed,
        torch=torch.__version__,
        **({"start": start.digest} if start else {}),
    )


def trained_model(
    config: Config,
    prepared: PreparedImages,
    workspace: Workspace,
    refresh: bool = False,
    start: ModelVersion | None = None,
) -> ModelVersion:
    """The registered version for these images and this configuration; trains what is missing.

    Args:
        config: what to train, and how.
        prepared: images.
        workspace: where checkpoints and the registry are.
        refresh: train everything anew.
        start: model whose weights training begins with; random ones without it.
    """
    begin = {"start": start.digest} if start else {}  # absent otherwise: older keys stay what they were
    key = training_key(config, prepared.digest, start)
    registry = workspace.registry
    parameters: dict[str, Any] = {"prepared": str(prepared.folder), "config": config}
    vae_key = key_of(
        "train-vae",
        TRAINING_VERSION,
        images=prepared.digest,
        vae=config.vae,
        perception=_perception_digest(config),
        seed=config.seed,
        **begin,
    )
    folder = _training_folder(workspace, vae_key, refresh)
    parameters["start"] = str(start.folder) if start else None
    vae = cached_or_fresh(fit_vae, _intact, refresh, key=vae_key, folder=folder, **parameters)
    diffusion = None
    if needs_diffusion(config.generator.backend):
        diffusion_key = key_of(
            "train-diffusion", TRAINING_VERSION, vae=vae["sha256"], images=prepared.digest, diffusion=config.diffusion,
            pretrained=pretrained_digest(config.diffusion), seed=config.seed, **begin,
        )  # fmt: skip
        folder = _training_folder(workspace, diffusion_key, refresh)
        diffusion = cached_or_fresh(
            fit_diffusion, _intact, refresh, key=diffusion_key, folder=folder, vae=vae["weights"], **parameters
        )
    del parameters["start"]
    name = cached_or_fresh(
        register_model,
        lambda version: registry.find(key) is not None,
        refresh,
        key=key,
        workspace=str(workspace.root),
        vae=vae,
        diffusion=diffusion,
        pretrained=pretrained_digest(config.diffusion) if diffusion else None,
        **parameters,
    )
    return registry.get(name)


def _training_folder(workspace: Workspace, key: str, refresh: bool) -> str:
    """Where a training leaves its checkpoints; emptied first where it is to be done anew."""
    folder = workspace.training(key)
    if refresh:
        shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


@task(name="train-vae", task_run_name="train VAE", **CACHED)
@holds_gpu_slots
def fit_vae(key: str, folder: str, prepared: str, config: Config, start: str | None) -> dict[str, str]:
    """Train the VAE; resumes from its checkpoint."""
    weights, figures = Path(folder) / "vae.safetensors", Path(folder) / "vae.json"
    if not figures.exists():
        progress = Progress("train vae", config.vae.steps, "steps")
        _train(_train_vae, (weights, figures, prepared, config, start), config, progress)
    return {"weights": str(weights), "sha256": file_sha256(weights), "figures": str(figures)}


@task(name="train-diffusion", task_run_name="train diffusion model", **CACHED)
@holds_gpu_slots
def fit_diffusion(key: str, folder: str, vae: str, prepared: str, config: Config, start: str | None) -> dict[str, str]:
    """Train the diffusion model on posterior samples of the VAE; resumes from its checkpoint."""
    weights, figures = Path(folder) / "diffusion.safetensors", Path(folder) / "diffusion.json"
    if not figures.exists():
        progress = Progress("train diffusion", config.diffusion.steps, "steps")
        _train(_train_diffusion, (weights, figures, vae, prepared, config, start), config, progress)
    return {"weights": str(weights), "sha256": file_sha256(weights), "figures": str(figures)}


def _train(function: Callable[..., None], arguments: tuple[Any, ...], config: Config, progress: Progress) -> None:
    """Run a training in as many processes as the host has GPUs for it."""
    run_in_processes(function, arguments, training_processes(config.compute), progress.of_training)


def _train_vae(
    weights: Path, figures: Path, prepared: str, config: Config, start: str | None, report: Report | None
) -> None:
    """One process's part of :func:`fit_vae`."""
    train, validation = _split(open_prepared(prepared), config.vae.image_size)
    vae, trained = train_vae(
        train, validation, config.vae, config.seed, weights.with_name("vae.checkpoint"), config.compute.device, report,
        initial=_weights(start, "vae"),
    )  # fmt: skip
    if rank() == 0:
        save_tensors(weights, vae.state_dict())
        _write_json(figures, asdict(trained))


def _train_diffusion(
    weights: Path, figures: Path, vae: str, prepared: str, config: Config, start: str | None, report: Report | None
) -> None:
    """One process's part of :func:`fit_diffusion`."""
    train, validation = _split(open_prepared(prepared), config.diffusion.image_size)
    model, trained = train_diffusion(
        _load_vae(vae, config), train, validation, config.diffusion, config.seed,
        weights.with_name("diffusion.checkpoint"), config.compute.device, report, initial=_weights(start, "diffusion"),
    )  # fmt: skip
    if rank() == 0:
        save_tensors(weights, diffusion_weights(model))
        scale = model.residual_scale if isinstance(model, ResidualDiffusion) else None
        _write_json(figures, {**asdict(trained), "residual_scale": scale})


def pretrained_digest(diffusion: DiffusionConfig) -> str | None:
    """Digest of the weights in the local folders that a diffusion model starts from, its autoencoder's among them.

    None where there are none, or they come from the hub, whose name then stands for them.
    """
    places = [diffusion.autoencoder] if diffusion.kind == "latent" else [diffusion.pretrained, diffusion.unet]
    if diffusion.kind == "residual":
        places = []
    files = [file for place in places if place for file in sorted(Path(place).rglob("*.safetensors"))]
    return digest_of([file_sha256(file) for file in files]) if files else None


def _perception_digest(config: Config) -> str | None:
    """Digest of the VGG16 weights: other weights under the same name give another model."""
    path = config.vae.vgg_weights
    if path is not None and not Path(path).is_file():
        raise ModelError("the VGG16 weights are missing", where=path, do="correct or drop vae.vgg_weights")
    return file_sha256(path) if path is not None else None


def _split(images: PreparedImages, size: int) -> tuple[ImageRows, ImageRows]:
    """Training and validation images at one size."""
    if not len(images.split("train")):
        raise ModelError("no training images", where=images.folder, do="lower the other splits' fractions")
    return images.rows(size, "train"), images.rows(size, "validation")


def _load_vae(path: str, config: Config) -> VAE:
    vae = build_vae(config.vae, 0)
    vae.load_state_dict(load_tensors(Path(path))[0])
    return vae.eval()


def _weights(start: str | None, network: str) -> dict[str, torch.Tensor] | None:
    """The weights that a network of a registered version has, if that was given and has it."""
    path = Path(start) / f"{network}.safetensors" if start else None
    return load_tensors(path)[0] if path and path.exists() else None


def _intact(result: dict[str, str]) -> bool:
    weights = Path(result["weights"])
    return Path(result["figures"]).exists() and weights.exists() and file_sha256(weights) == result["sha256"]


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
