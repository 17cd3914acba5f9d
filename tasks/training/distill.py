"""Distillation tasks: a few-step student and a light decoder of a registered model, compared and registered with it."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from torch import Tensor

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.distillation import train_light_decoder, train_student
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.assembly import LIGHT_DECODER, STUDENT, load_diffusion, load_vae
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.quality.sampler_comparison import compare_samplers
from image_longitudinal.models.registry.metadata import Distillation, SamplerComparison
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.training.register import registered_version
from image_longitudinal.tasks.training.spec import DistillationSpec, DistilledNetworksSpec
from image_longitudinal.tasks.workspace import Workspace

CARD_SECTION = "## Samplers"  # of the model's card
REAL_IMAGES = 2048  # training images that FD is measured against; more change no visible digit


def distilled_model(
    version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace
) -> ModelVersion:
    """The registered version with a student (and a light decoder); trains what is missing.

    Raises:
        ModelError: the model has no diffusion model, was trained on other images, or nothing is asked for.
    """
    images, asked = version.metadata.images.digest, config.distillation
    if version.metadata.networks.diffusion is None:
        raise ModelError("there is no diffusion model to distil", where=version.version)
    if images != prepared.digest:
        raise ModelError(
            "these are not the images that the model was trained on", where=version.version,
            expected=f"images {images[:12]}", got=prepared.digest[:12],
            do="name the folder of scans it was trained on with --images, and the preset",
        )  # fmt: skip
    if not asked.student_steps and not (asked.decoder_steps and _has_heavy_decoder(version)):
        raise ModelError(
            "there is nothing to distil", where=version.version,
            do="set distillation.student_steps (distillation.decoder_steps is for stable-diffusion models only)",
        )  # fmt: skip
    spec = DistillationSpec.of(config, version)
    folder = str(workspace.training(spec.networks.digest))
    return registered_version(register_distilled, spec, config, prepared, workspace, folder=folder)


@task(name="train_student-model", task_run_name="distil, measure and register", **CACHED)
@holds_gpu_slots
def register_distilled(
    key: str, spec: DistillationSpec, folder: str, prepared: str, workspace: str, compute: ComputeConfig
) -> str:
    """Train the networks asked for, compare samplers, and register all with the model's own networks; resumes."""
    registry, asked = Workspace.at(workspace).registry, spec.networks.distillation
    base = registry.get(spec.networks.model)
    weights, train = base.all_tensors(), open_prepared(prepared).rows(base.metadata.networks.image_size, "train")
    for name, steps in ((STUDENT, asked.student_steps), (LIGHT_DECODER, asked.decoder_steps)):
        if steps and (name == STUDENT or _has_heavy_decoder(base)):
            weights[name] = _distilled_weights(name, steps, spec.networks, base, train, Path(folder), compute.device)
    samplers = compare_samplers(
        base,
        weights,
        train[slice(REAL_IMAGES)],
        sampler=(spec.scheduler, spec.steps),
        student_steps=asked.solver_steps,
        probe=spec.probe,
        seed=spec.networks.seed,
        device=default_device(compute.device),
    )
    distillation = Distillation(
        teacher=base.version,
        networks=tuple(name for name in (STUDENT, LIGHT_DECODER) if name in weights),  # earlier distillations' too
        config=asked,
        samplers=samplers,
    )
    metadata = base.metadata.model_copy(update={"training_key": key, "distillation": distillation})
    card = f"{base.card.partition(CARD_SECTION)[0].rstrip()}\n\n{_card_section(samplers)}\n"
    registered = registry.register(weights, metadata, card)
    create_table_artifact(
        [row.model_dump() for row in samplers],
        key="distillation",
        description=f"Model {registered.version}: what faster samplers cost",
    )
    return registered.version


def _has_heavy_decoder(version: ModelVersion) -> bool:
    diffusion = version.metadata.networks.diffusion
    return diffusion is not None and diffusion.kind == "stable-diffusion"


def _distilled_weights(
    name: str, steps: int, spec: DistilledNetworksSpec, base: ModelVersion, train: ImageRows, folder: Path, device: str
) -> dict[str, Tensor]:
    """The weights of one distilled network, trained unless they are in ``folder``."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        teacher, report = load_diffusion(base), Progress(f"train {name}", steps, "steps").of_training
        settings = (spec.distillation, spec.seed, path.with_suffix(".checkpoint"), device, report)
        if name == STUDENT:
            save_tensors(path, train_student(teacher, load_vae(base), train, *settings)[0].state_dict())
        else:
            assert isinstance(teacher, StableDiffusion)
            save_tensors(path, train_light_decoder(teacher, train, *settings)[0].state_dict())
    return load_tensors(path)[0]


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
