"""Training tasks: each leaves its network in the workspace under the digest of what made it, and can be resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from core.config import Config, DiffusionConfig
from core.digest import digest_of, file_sha256
from core.errors import ModelError
from models.backends import (
    DiffusionImages,
    ImageModel,
    VAEImages,
    assemble_diffusion,
    assemble_vae,
    diffusion_weights,
    find_recoverable_axes,
    needs_diffusion,
)
from models.diffusion.interface import DiffusionModel
from models.diffusion.residual import ResidualDiffusion
from models.diffusion.train import train_diffusion
from models.gallery import noise_to_image, traversal, triptychs
from models.measurement import measure_model
from models.promotion import promote
from models.recoverability import choose_entries
from models.registry import CANDIDATE, ModelVersion, Registry
from models.tensors import ImageRows, default_device, load_tensors, save_tensors
from models.vae.importance import importance
from models.vae.network import VAE
from models.vae.train import build_vae, train_vae
from storage.prepared import ImageView, PreparedImages, open_prepared
from tasks.gpu import takes_turns
from tasks.keys import cached_or_fresh, key_of
from tasks.model_figures import model_pictures, quality_rows
from tasks.options import CACHED
from tasks.pictures import picture
from tasks.progress import Progress
from tasks.workspace import Workspace

TRAINING_VERSION = 2  # raise it whenever the same data and configuration would give other weights
MEASURING_VERSION = 1  # raise it whenever the same networks would be measured or shown otherwise
RANDOM_EFFECTS = 3  # entries that the metric "recoverability" asks for: as many become η in the original's outcomes
EXAMPLES = 24  # held-out images kept with a model, to show beside generated ones


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
@takes_turns
def fit_vae(key: str, folder: str, prepared: str, config: Config, start: str | None) -> dict[str, str]:
    """Train the VAE; resumes from its checkpoint."""
    weights, figures = Path(folder) / "vae.safetensors", Path(folder) / "vae.json"
    if not figures.exists():
        images = open_prepared(prepared)
        progress = Progress("train vae", config.vae.steps, "steps")
        train, validation = _split(images, config.vae.image_size)
        vae, trained = train_vae(
            train, validation, config.vae, config.seed, Path(folder) / "vae.checkpoint", config.compute.device,
            progress.of_training, initial=_weights(start, "vae"),
        )  # fmt: skip
        save_tensors(weights, vae.state_dict())
        _write_json(figures, asdict(trained))
    return {"weights": str(weights), "sha256": file_sha256(weights), "figures": str(figures)}


@task(name="train-diffusion", task_run_name="train diffusion model", **CACHED)
@takes_turns
def fit_diffusion(key: str, folder: str, vae: str, prepared: str, config: Config, start: str | None) -> dict[str, str]:
    """Train the diffusion model on posterior samples of the VAE; resumes from its checkpoint."""
    weights, figures = Path(folder) / "diffusion.safetensors", Path(folder) / "diffusion.json"
    if not figures.exists():
        images = open_prepared(prepared)
        progress = Progress("train diffusion", config.diffusion.steps, "steps")
        train, validation = _split(images, config.diffusion.image_size)
        model, trained = train_diffusion(
            _load_vae(vae, config), train, validation, config.diffusion, config.seed,
            Path(folder) / "diffusion.checkpoint", config.compute.device, progress.of_training,
            initial=_weights(start, "diffusion"),
        )  # fmt: skip
        save_tensors(weights, diffusion_weights(model))
        scale = model.residual_scale if isinstance(model, ResidualDiffusion) else None
        _write_json(figures, {**asdict(trained), "residual_scale": scale})
    return {"weights": str(weights), "sha256": file_sha256(weights), "figures": str(figures)}


@task(name="register-model", task_run_name="measure and register", **CACHED)
@takes_turns
def register_model(
    key: str, workspace: str, prepared: str, config: Config, vae: dict[str, str], diffusion: dict[str, str] | None
) -> str:
    """Measure what the finished generator keeps of z, and register weights, figures and card as one version."""
    images = open_prepared(prepared)
    weights = {"vae": load_tensors(Path(vae["weights"]))[0]}
    figures: dict[str, Any] = {"vae": _read_json(vae["figures"])}
    metadata: dict[str, Any] = {
        "seed": config.seed,
        "vae": config.vae.model_dump(mode="json"),
        "images": {"digest": images.digest, "source": images.manifest["source"], "counts": images.manifest["counts"]},
        "figures": figures,
    }
    if diffusion is not None:
        weights["diffusion"] = load_tensors(Path(diffusion["weights"]))[0]
        figures["diffusion"] = _read_json(diffusion["figures"])
        metadata["diffusion"] = config.diffusion.model_dump(mode="json")
        metadata["residual_scale"] = figures["diffusion"].pop("residual_scale")
        metadata["pretrained"] = pretrained_digest(config.diffusion)
    size = config.diffusion.image_size if diffusion else config.vae.image_size
    held_out = images.split("test")
    weights["examples"] = {"images": torch.from_numpy(images.images(size)[held_out[:EXAMPLES]].copy())}

    probe, device = config.probe, default_device(config.compute.device)
    network = assemble_vae(metadata, weights["vae"]).to(device)
    model: ImageModel = VAEImages(network, digest="")
    generator = None
    if diffusion is not None:
        generator = assemble_diffusion(metadata, network, weights["diffusion"]).to(device)
        model = DiffusionImages(generator, probe.scheduler, probe.steps, device, digest="")
    settings = {"n": probe.n_images, "batch_size": probe.batch_size, "seed": config.seed}
    axes = find_recoverable_axes(model, network, **settings)
    network.rotate(axes)
    weights["vae"] = network.state_dict()
    if generator is not None:
        generator.rotate(axes)
        weights["diffusion"] = diffusion_weights(generator)
    ranked = importance(network, config.seed)
    measured = measure_model(
        model, network, images.rows(size, "train"), _held_out(images, size), probe, config.seed, config.compute.device
    )
    entries = choose_entries(measured.recoverability, len(measured.recoverability))
    metadata |= {
        "training_key": key,
        "recoverability": measured.recoverability,
        "noise_spread": measured.noise_spread,
        "read_by": measured.read_by,
        "importance": asdict(ranked),
        "quality": measured.quality,
        "memory": measured.memory,
        "metrics": {
            "recoverability": measured.recoverability[entries[min(RANDOM_EFFECTS, len(entries)) - 1]],
            **measured.metrics,
        },
        "held_out": held_out_digest(images, size),
        "backend": "diffusion" if diffusion else "vae",
        "probe": probe.model_dump(mode="json"),
        "entries": entries,
    }
    weights["gallery"] = _gallery(model, generator, network, images.images(size)[held_out[:EXAMPLES]], metadata, config)
    registry = Workspace.at(workspace).registry
    version = registry.register(weights, metadata, _card(metadata))
    registry.set_alias(CANDIDATE, version.version)
    _promote_if_no_worse(registry, version)
    _show(version)
    return version.version


def _gallery(
    model: ImageModel,
    generator: DiffusionModel | None,
    vae: VAE,
    held_out: NDArray[np.uint8],
    metadata: dict[str, Any],
    config: Config,
) -> dict[str, torch.Tensor]:
    """The arrays of :mod:`models.gallery`, as they lie in the registry: uint8."""
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


def _show(version: ModelVersion) -> None:
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


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def _card(metadata: dict[str, Any]) -> str:
    """The model card: what it is, what it was trained on, what was measured."""
    images, vae = metadata["images"], metadata["figures"]["vae"]
    source = "scans" if images["source"]["kind"] == "scans" else "procedural phantom images"
    rows = "\n".join(
        f"| {entry} | {metadata['recoverability'][entry]:.3f} | {metadata['noise_spread'][entry]:.3f} |"
        for entry in metadata["entries"]
    )
    return f"""# Image model of image-longitudinal

A VAE{" and a diffusion model" if "diffusion" in metadata else ""} trained on {images["counts"]["images"]} {source}
({images["counts"]["by_split"]}; splits share no patient). For making synthetic benchmark data; not for diagnosis.

- Perceptual term of the VAE's loss: {vae["perception"]}. Validation error (mean squared, grey 0 to 1):
  {vae["validation_mse"]:.5f}. Active entries before standardisation: {vae["active_units"]}.
- Latents are standardised (over training images they have mean 0 and covariance I) and turned to the axes that
  survive best into finished images.

Recoverability (R² of z read back from generated images by the {metadata["read_by"]}, z ~ N(0, I)), best first, and its
standard deviation over draws of the noise:

| entry | R² | sd |
|---|---|---|
{rows}
{_quality_words(metadata)}
Method: arXiv 2410.16177. Weights are safetensors; `model.json` holds configuration and figures.
"""


def _quality_words(metadata: dict[str, Any]) -> str:
    if not metadata["quality"]:
        return ""
    lines = ["| {features} | {figure} | {generated} | {real (floor)} |".format(**row) for row in quality_rows(metadata)]
    n = next(iter(metadata["quality"].values()))["n"]
    return "\n".join(
        [
            "",
            f"Generated images beside real ones, {n} of each against images of patients held out:",
            "",
            "| features | figure | generated | real (floor) |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )
