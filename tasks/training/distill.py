"""Distillation tasks: a few-step student and a light decoder of a registered model, compared and registered with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from torch import nn

from image_longitudinal.core.config import ComputeConfig, Config, DistillationConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.network_kinds import check_solvers
from image_longitudinal.models.diffusion.distillation import train_light_decoder, train_student
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.assembly import LIGHT_DECODER, STUDENT, load_diffusion, load_vae
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.quality.sampler_comparison import compare_samplers
from image_longitudinal.models.registry.metadata import Distillation, SamplerComparison
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.arithmetic import with_training_threads
from image_longitudinal.models.training.tensor_files import DamagedTensorsError, load_checked, save_checked
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.assets import record_product
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.products import model_product
from image_longitudinal.tasks.training.register import registered_version
from image_longitudinal.tasks.training.specs import DistillationSpec
from image_longitudinal.tasks.workspace import Workspace

CARD_SECTION = "## Samplers"  # of the model's card
REAL_IMAGES = 2048  # training images that FD is measured against; more change no visible digit


def distilled_model(
    version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace
) -> ModelVersion:
    """The registered version with a student (and a light decoder); trains what is missing.

    Raises:
        ConfigError: a solver does not fit the model.
        ModelError: the model has no diffusion model, was trained on other images, or nothing is asked for.
    """
    images, asked, network = version.metadata.images.digest, config.distillation, version.metadata.networks.diffusion
    if network is None:
        raise ModelError("there is no diffusion model to distil", where=version.version)
    check_solvers(config, network.kind)
    if images != prepared.digest:
        raise ModelError(
            "these are not the images that the model was trained on", where=version.version,
            expected=f"images {images[:12]}", got=prepared.digest[:12],
            do="name the folder of scans it was trained on with --images, and the preset",
        )  # fmt: skip
    if not _training_steps(version, asked):
        raise ModelError(
            "there is nothing to distil", where=version.version,
            do="set distillation.student_steps (distillation.decoder_steps is for stable-diffusion models only)",
        )  # fmt: skip
    spec = DistillationSpec.of(config, version)
    folder = str(workspace.training(spec.networks.digest))
    return registered_version(register_distilled, spec, config, prepared, workspace, folder=folder)


@task(name="train_student-model", task_run_name="distil, measure and register", **CACHED)
@holds_gpu_slots
@with_training_threads
def register_distilled(
    spec: DistillationSpec, folder: str, prepared: str, workspace: str, compute: ComputeConfig
) -> str:
    """Train the networks asked for, compare samplers, and register all with the model's own networks; resumes."""
    registry, asked = Workspace.at(workspace).registry, spec.networks.distillation
    base = registry.get(spec.networks.model)
    weights, train = base.all_tensors(), open_prepared(prepared).rows(base.metadata.networks.image_size, "train")
    for name, steps in _training_steps(base, asked).items():
        path = Path(folder, f"{name}.safetensors")
        try:
            weights[name] = load_checked(path)[0]
        except DamagedTensorsError:
            report = Progress(f"train {name}", steps, "steps").of_training
            settings = (asked, spec.networks.seed, path.with_suffix(".checkpoint"), compute.device, report)
            save_checked(path, _distilled(name, base, train, settings).state_dict())
            weights[name] = load_checked(path)[0]
    samplers = compare_samplers(
        base, weights, train[slice(REAL_IMAGES)], sampler=(spec.scheduler, spec.steps),
        student_steps=asked.solver_steps, probe=spec.probe, seed=spec.networks.seed,
        device=default_device(compute.device),
    )  # fmt: skip
    distillation = Distillation(
        teacher=base.version,
        networks=tuple(name for name in (STUDENT, LIGHT_DECODER) if name in weights),  # earlier distillations' too
        config=asked,
        samplers=samplers,
        arithmetic=spec.networks.arithmetic,
    )
    metadata = base.metadata.model_copy(update={"training_key": spec.digest, "distillation": distillation})
    card = f"{base.card.partition(CARD_SECTION)[0].rstrip()}\n\n{_card_section(samplers)}\n"
    registered = registry.register(weights, metadata, card)
    registry.record_gates(registered, base.gates)  # those of the teacher; a data set's own images are measured anyway
    caption = f"Model {registered.version}: what faster samplers cost"
    create_table_artifact([row.model_dump() for row in samplers], key="distillation", description=caption)
    record_product(model_product(registered, Path(workspace)))
    return registered.version


def _training_steps(version: ModelVersion, asked: DistillationConfig) -> dict[str, int]:
    """Training steps by name of network to distil; only Stable Diffusion has a decoder that is worth replacing."""
    diffusion = version.metadata.networks.diffusion
    decoder_steps = asked.decoder_steps if diffusion and diffusion.kind == "stable-diffusion" else 0
    return {name: n for name, n in ((STUDENT, asked.student_steps), (LIGHT_DECODER, decoder_steps)) if n}


def _distilled(name: str, base: ModelVersion, train: ImageRows, settings: tuple[Any, ...]) -> nn.Module:
    """Train one distilled network, or resume from its checkpoint."""
    teacher = load_diffusion(base)
    if name == STUDENT:
        return train_student(teacher, load_vae(base), train, *settings)[0]
    assert isinstance(teacher, StableDiffusion)
    return train_light_decoder(teacher, train, *settings)[0]


def _card_section(samplers: Sequence[SamplerComparison]) -> str:
    rows = "\n".join(
        f"| {row.solver} | {row.steps} | {row.decoder} | {row.recoverability:.3f} | {row.fd:.3f} "
        f"| {row.recoverability_loss_percent:+.1f} % | {row.fd_loss_percent:+.1f} % |"
        for row in samplers
    )
    return (
        f"{CARD_SECTION}\n\nLosses are relative to the first sampler. Recoverability is the mean of the three best\n"
        "latent dimensions, FD the Fréchet distance to training images. Latents and noise seeds are the same.\n\n"
        "| solver | steps | decoder | recoverability | FD | recoverability loss | FD loss |\n"
        "|---|---|---|---|---|---|---|\n" + rows
    )
