"""Distillation tasks: a few-step student and a light decoder of a registered model, measured and registered with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.artifacts import create_table_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.diffusion.light_decoder import train_light_decoder
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.diffusion.student import distill
from image_longitudinal.models.imaging.backends import (
    DiffusionImages,
    assemble_diffusion,
    load_vae,
    use_light_decoder,
    with_denoiser,
)
from image_longitudinal.models.quality.sampler_comparison import DrawFigures, loss_percent, measure_draws
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.tensors import default_device, load_tensors, save_tensors
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh, key_of
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.workspace import Workspace

DISTILLATION_VERSION = 2  # raise it whenever the same model and configuration would give other weights
STUDENT, LIGHT_DECODER = "student", "light-decoder"
REFERENCE = ("ddpm", 50)  # the original's way of drawing, which every loss is measured against
WAYS = "Ways to draw"  # begins the table on the model's card
REAL_IMAGES = 2048  # training images compared with; more change no figure that can be seen


def distilled_model(version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace) -> str:
    """Name of the registered version with a student (and a light decoder); makes what is missing.

    Raises:
        ModelError: the model has no diffusion model, was trained on other images, or nothing is asked for.
    """
    if "diffusion" not in version.metadata:
        raise ModelError("there is no diffusion model to distil", where=version.version)
    if version.metadata["images"]["digest"] != prepared.digest:
        raise ModelError(
            "these are not the images that the model was trained on", where=version.version,
            expected=f"images {version.metadata['images']['digest'][:12]}", got=prepared.digest[:12],
            do="name the folder of scans it was trained on with --images, and the preset",
        )  # fmt: skip
    wanted = config.distillation
    heavy = version.metadata["diffusion"]["kind"] == "stable-diffusion"
    made = [STUDENT] * bool(wanted.student_steps) + [LIGHT_DECODER] * bool(wanted.decoder_steps and heavy)
    if not made:
        raise ModelError(
            "there is nothing to distil", where=version.version,
            do="set distillation.student_steps (distillation.decoder_steps is for stable-diffusion models alone)",
        )  # fmt: skip
    trained = key_of(
        "train-distilled", DISTILLATION_VERSION, model=version.digest, distillation=wanted, seed=config.seed,
        torch=torch.__version__,
    )  # fmt: skip
    key = key_of(  # measuring in another way trains nothing anew
        "distill", DISTILLATION_VERSION, trained=trained, probe=config.probe,
        drawn=[config.generator.scheduler, config.generator.steps],
    )  # fmt: skip
    shared: dict[str, Any] = {
        "key": key, "folder": str(workspace.training(trained)), "version": version.version,
        "prepared": str(prepared.folder), "config": config, "workspace": str(workspace.root),
    }  # fmt: skip
    registry = workspace.registry
    return cached_or_fresh(register_distilled, lambda _: registry.find(key) is not None, made=made, **shared)


@task(name="distill-model", task_run_name="distil, measure and register", **CACHED)
@holds_gpu_slots
def register_distilled(
    key: str, folder: str, version: str, prepared: str, config: Config, workspace: str, made: list[str]
) -> str:
    """Train what is asked for, measure what it costs, and register it with all that the model has; resumes."""
    registry = Workspace.at(workspace).registry
    base, images = registry.get(version), open_prepared(prepared)
    weights = {name: base.tensors(name) for name in (Path(file).stem for file in base.content["files"])}
    size = int(base.metadata["diffusion"]["image_size"])
    train = images.rows(size, "train")
    for name in made:
        path = Path(folder, f"{name}.safetensors")
        if not path.exists():
            steps = config.distillation.student_steps if name == STUDENT else config.distillation.decoder_steps
            progress = Progress(f"train {name}", steps, "steps")
            model, checkpoint = _teacher(base), path.with_suffix(".checkpoint")
            settings = (config.distillation, config.seed, checkpoint, config.compute.device, progress.of_training)
            if name == STUDENT:
                network = distill(model, load_vae(base), train, *settings)[0]
            else:
                assert isinstance(model, StableDiffusion)
                network = train_light_decoder(model, train, *settings)[0]
            save_tensors(path, network.state_dict())
        weights[name] = load_tensors(path)[0]
    record: dict[str, Any] = {
        "of": base.version,
        "made": [name for name in (STUDENT, LIGHT_DECODER) if name in weights],  # of an earlier distillation too
        "config": config.distillation.model_dump(mode="json"),
    }
    record["measured"] = _measure(base, weights, train[slice(REAL_IMAGES)], config)
    metadata = {**base.metadata, "training_key": key, "distillation": record}
    card = f"{_card(base)}\n{_table(record['measured'])}\n"
    registered = registry.register(weights, metadata, card)
    create_table_artifact(
        record["measured"], key="distillation", description=f"Model {registered.version}: what faster drawing costs"
    )
    return registered.version


def _teacher(version: ModelVersion) -> DiffusionModel:
    return assemble_diffusion(version.metadata, load_vae(version), version.tensors("diffusion"))


def _measure(
    version: ModelVersion, weights: dict[str, dict[str, torch.Tensor]], real: Any, config: Config
) -> list[dict[str, Any]]:
    """One row per way of drawing; losses in per cent of the first row's figures."""
    device, probe = default_device(config.compute.device), config.probe
    few: list[tuple[str, str, int]] = [("diffusion", probe.scheduler, probe.steps)]
    if (own := ("diffusion", config.generator.scheduler, config.generator.steps)) != few[0] and own[1] != "student":
        few.append(own)
    if STUDENT in weights:
        few.append((STUDENT, "student", config.distillation.solver_steps))
    ways: list[tuple[str, str, int, bool]] = [("diffusion", *REFERENCE, False)]
    ways += [(*way, light) for light in (False, True)[: 1 + (LIGHT_DECODER in weights)] for way in few]
    vae = load_vae(version).to(device)
    rows: list[dict[str, Any]] = []
    first: DrawFigures | None = None
    for network, scheduler, steps, light in ways:
        parts = (
            weights["diffusion"] if network == "diffusion" else with_denoiser(weights["diffusion"], weights[network])
        )
        model = assemble_diffusion(version.metadata, load_vae(version), parts)
        if light:
            use_light_decoder(model, weights[LIGHT_DECODER])
        model.to(device).for_sampling(torch.float32)
        found = measure_draws(
            DiffusionImages(model, scheduler, steps, device, ""), vae, version.metadata["entries"][:3], real,
            n=probe.n_images, batch_size=probe.batch_size, seed=config.seed,
        )  # fmt: skip
        first = first or found
        rows.append(
            {
                "solver": scheduler,
                "steps": steps,
                "decoder": "light" if light else "full",
                **found._asdict(),
                "recoverability_loss_percent": loss_percent(
                    first.recoverability, found.recoverability, more_is_better=True
                ),
                "fd_loss_percent": loss_percent(first.fd, found.fd, more_is_better=False),
            }
        )
    return rows


def _card(version: ModelVersion) -> str:
    """The model's own card, without the table of an earlier distillation."""
    card = version.folder / "README.md"
    text = card.read_text() if card.exists() else "# Image model of image-longitudinal\n"
    return text.partition(f"\n{WAYS}")[0]


def _table(measured: list[dict[str, Any]]) -> str:
    """For the model card."""
    rows = "\n".join(
        f"| {row['solver']} | {row['steps']} | {row['decoder']} | {row['recoverability']:.3f} | {row['fd']:.3f} "
        f"| {row['recoverability_loss_percent']:+.1f} % | {row['fd_loss_percent']:+.1f} % |"
        for row in measured
    )
    return (
        f"{WAYS}, and what they lose against the first (recoverability of the three best entries, Fréchet\n"
        "distance to training images; the same latents and noise seeds):\n\n"
        "| solver | steps | decoder | recoverability | FD | loss | loss |\n|---|---|---|---|---|---|---|\n" + rows
    )
