"""Networks become a registered version: rotated to the most recoverable axes, measured, shown; or measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from torch import Tensor

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.gates import Gate, GateKind, GatesConfig, accepting
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.imaging.assembly import (
    assemble_diffusion,
    assemble_vae,
    diffusion_weights,
    load_diffusion,
    load_vae,
)
from image_longitudinal.models.imaging.backends import probed_model
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.interface import ImageModel
from image_longitudinal.models.quality.gallery import noise_to_image, traversal, triptychs
from image_longitudinal.models.quality.judge.networks import VGG16, load_judge
from image_longitudinal.models.quality.model_metrics import RealImages, measure_image_model
from image_longitudinal.models.quality.recoverability import find_recoverable_axes
from image_longitudinal.models.registry.gates import model_gates
from image_longitudinal.models.registry.metadata import (
    Measurement,
    ModelMetadata,
    NetworkConfigs,
    TrainingFigures,
    TrainingImages,
    VAETraining,
)
from image_longitudinal.models.registry.promotion import promote
from image_longitudinal.models.registry.real_scans import EXAMPLES, GALLERY
from image_longitudinal.models.registry.registry import CANDIDATE, ModelVersion, Registry
from image_longitudinal.models.training.arithmetic import with_training_threads
from image_longitudinal.models.training.tensor_files import tensors_digest
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.storage.scans.prepared import ImageView, PreparedImages, open_prepared
from image_longitudinal.tasks.engine.assets import record_product
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh
from image_longitudinal.tasks.engine.gates import pass_gates, show_gates
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.products import model_product
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.reports.model_figures import model_pictures, quality_rows
from image_longitudinal.tasks.reports.pictures import picture
from image_longitudinal.tasks.training.judging import judged_scans
from image_longitudinal.tasks.training.networks import TrainedDiffusion, TrainedNetwork
from image_longitudinal.tasks.training.specs import RegistrationSpec, RemeasureSpec
from image_longitudinal.tasks.workspace import Workspace

HELD_OUT = 24  # held-out images stored with a model, to show beside generated ones


def registered_version(
    register: Any,
    spec: Spec,
    config: Config,
    prepared: PreparedImages,
    workspace: Workspace,
    refresh: bool = False,
    **parameters: Any,
) -> ModelVersion:
    """The version that a task registers for ``spec``; runs the task unless the registry has it."""
    registry = workspace.registry
    name = cached_or_fresh(
        register, lambda _: _is_registered(registry, spec), refresh, spec=spec,
        prepared=str(prepared.folder), workspace=str(workspace.root), compute=config.compute, **parameters,
    )  # fmt: skip
    return registry.get(name)


def _is_registered(registry: Registry, spec: Spec) -> bool:
    version = registry.find(spec.digest)
    return version is not None and version.is_intact()


@task(name="register-model", task_run_name="measure and register", **CACHED)
@holds_gpu_slots
@with_training_threads
def register_model(
    spec: RegistrationSpec,
    vae: TrainedNetwork,
    diffusion: TrainedNetwork | None,
    prepared: str,
    workspace: str,
    compute: ComputeConfig,
    real_scans: bool,
    bars: GatesConfig,
    accept: Sequence[GateKind],
    before: Sequence[Gate],
) -> str:
    """Rotate the networks to the most recoverable axes, measure them, and register weights, figures and card.

    Args:
        spec: what decides the version.
        vae, diffusion: the files of the trainings.
        prepared: folder of the images trained on.
        workspace: where it is registered.
        compute: device and threads.
        real_scans: show scans in artifacts too.
        bars, accept: what a model has to reach, and what is accepted all the same; they do not change the version.
        before: gates that were passed before, which are recorded with it.

    Returns:
        The version's name.

    Raises:
        RefusedByGateError: the model is not good enough; nothing is registered.
    """
    images, probe, seed, device = open_prepared(prepared), spec.probe, spec.vae.seed, default_device(compute.device)
    networks = NetworkConfigs(vae=spec.vae.vae)
    training = TrainingFigures(vae=vae.read_figures(VAETraining))
    network = assemble_vae(networks, vae.tensors()).to(device)
    generator = None
    if diffusion is not None and spec.diffusion is not None:
        trained = diffusion.read_figures(TrainedDiffusion)
        training = training.model_copy(update={"diffusion": trained.training})
        changes = {"diffusion": spec.diffusion.diffusion, "residual_scale": trained.residual_scale}
        networks = networks.model_copy(update=changes)
        generator = assemble_diffusion(networks, network, diffusion.tensors())
        networks = networks.model_copy(update={"borrowed": tensors_digest(generator.borrowed_state())})
        generator.to(device)
    model = probed_model(network, generator, probe, device)
    if network.rotatable:
        axes = find_recoverable_axes(model, network, n=probe.n_images, batch_size=probe.batch_size, seed=seed)
        network.rotate(axes)
        if generator is not None:
            generator.rotate(axes)
    weights = {"vae": network.state_dict()}
    if generator is not None:
        weights["diffusion"] = diffusion_weights(generator)
    measured = measure_image_model(
        model, network, _real_images(images, model.image_size), probe, seed, compute.device,
        judged_scans(images, model.image_size, VGG16), generator,
    )  # fmt: skip
    metadata = ModelMetadata(
        training_key=spec.digest, seed=seed, images=_training_images(images), networks=networks, training=training,
        measured=measured, pretrained=spec.diffusion.pretrained if spec.diffusion else None,
        arithmetic=spec.vae.arithmetic,
    )  # fmt: skip
    found = accepting(model_gates(measured, bars), accept)
    pass_gates(found, "model", "the model is not registered; its trained networks stay in the workspace")
    gates = (*before, *found)
    held_out = images.images(model.image_size)[images.split("test")[:HELD_OUT]].copy()
    examples = {"images": torch.from_numpy(held_out)}
    gallery = _gallery(model, generator, network, held_out, measured, seed)
    if metadata.images.kind == "scans" and "triptychs" in gallery:  # one file holds all that is made of real scans
        examples["triptychs"] = gallery.pop("triptychs")
    weights |= {EXAMPLES: examples, GALLERY: gallery}
    registry = Workspace.at(workspace).registry
    version = registry.register(weights, metadata, model_card(metadata, gates))
    registry.record_gates(version, gates, model_card(metadata, gates))
    registry.set_alias(CANDIDATE, version.version)
    _promote_if_no_worse(registry, version)
    _show(version, real_scans)
    record_product(model_product(version, Path(workspace)))
    return version.version


def remeasured_model(
    version: ModelVersion, config: Config, prepared: PreparedImages, workspace: Workspace, judge: str = VGG16
) -> ModelVersion:
    """The registered version with these networks and the figures that ``config.probe`` and ``judge`` measure.

    Raises:
        ModelError: the held-out images differ from those of the model's training, or the judge cannot be loaded.
    """
    recorded = version.metadata.measured.held_out
    if (found := _held_out_digest(prepared, version.metadata.networks.image_size)) != recorded:
        raise ModelError(
            "not the images that were held out of the model's training", where=version.version,
            expected=f"images {recorded[:12]}", got=found[:12],
            do="name the scans it was trained on with --images, and the preset and seed that split them",
        )  # fmt: skip
    spec = RemeasureSpec.of(config, version, prepared.digest, load_judge(judge).digest)
    shown = config.report.include_real_scans
    return registered_version(
        register_remeasured, spec, config, prepared, workspace, judge=judge, real_scans=shown, bars=config.gates
    )


@task(name="measure-model", task_run_name="measure and register", **CACHED)
@holds_gpu_slots
@with_training_threads
def register_remeasured(
    spec: RemeasureSpec,
    prepared: str,
    workspace: str,
    compute: ComputeConfig,
    judge: str,
    real_scans: bool,
    bars: GatesConfig,
) -> str:
    """Measure a version's networks, and register them with new figures, card, gates and latent order.

    A gate stops nothing here: the figures are what was asked for. One that is closed stops a promotion.
    """
    registry, probe, device = Workspace.at(workspace).registry, spec.probe, default_device(compute.device)
    base, images = registry.get(spec.model), open_prepared(prepared)
    vae = load_vae(base).to(device)
    generator = load_diffusion(base).to(device) if base.metadata.networks.diffusion else None
    model = probed_model(vae, generator, probe, device)
    measured = measure_image_model(
        model, vae, _real_images(images, model.image_size), probe, spec.seed, compute.device,
        judged_scans(images, model.image_size, judge), generator,
    )  # fmt: skip
    metadata = base.metadata.model_copy(update={"measured": measured, "training_key": spec.digest})
    weights = base.all_tensors()
    if GALLERY in weights:
        shown = traversal(model, measured.latent_order, probe.batch_size)
        weights[GALLERY]["traversal"] = torch.from_numpy(shown)
    registered = registry.register(weights, metadata, model_card(metadata))
    kinds = [one.kind for one in base.gates if one.accepted]
    before = [one for one in base.gates if one.stage == "before diffusion"]
    gates = accepting([*before, *model_gates(measured, bars)], kinds)
    registry.record_gates(registered, gates, model_card(metadata, gates))
    show_gates(gates, "model")
    _show(registered, real_scans)
    record_product(model_product(registered, Path(workspace)))
    return registered.version


def _real_images(images: PreparedImages, size: int) -> RealImages:
    """Training images, and those of both other splits: one of these alone is often small."""
    index = np.array([i for i, record in enumerate(images.manifest.images) if record.split != "train"], np.int64)
    held_out = ImageView(images.images(size), index)
    return RealImages(images.rows(size, "train"), held_out, _held_out_digest(images, size))


def _held_out_digest(images: PreparedImages, size: int) -> str:
    """Identifies the images that a model is measured on: figures of two models compare only if it is the same."""
    return digest_of(size, [record.sha256 for record in images.manifest.images if record.split != "train"])


def _show(version: ModelVersion, real_scans: bool) -> None:
    """Show figures and pictures of a version as artifacts of the run; of real scans only if asked for."""
    measured, name = version.metadata.measured, f"Model {version.version}"
    rows = [
        {
            "latent dimension": dimension,
            "recoverability R2": round(measured.recoverability[dimension], 4),
            "sd over noise seeds": round(measured.noise_spread[dimension], 4),
        }
        for dimension in measured.latent_order
    ]
    caption = f"{name}: z read back from generated images by the {measured.read_by}, best first"
    create_table_artifact(rows, key="recoverability", description=caption)
    shown = model_pictures(version, real_scans=real_scans)
    pictures = "\n\n".join(f"**{of}**\n\n{picture(image, of)}" for of, image in shown.items())
    caption = f"{name}: latent traversals, denoising, scans beside reconstructions"
    create_markdown_artifact(pictures, key="model-pictures", description=caption)
    if quality := quality_rows(measured):
        create_table_artifact(quality, key="image-quality", description=f"{name}: generated beside real images")


def _training_images(images: PreparedImages) -> TrainingImages:
    source, counts = images.manifest.source, images.manifest.counts
    return TrainingImages(
        digest=images.digest, kind=source.kind, folder=source.folder, images=counts.images, patients=counts.patients,
        by_split=counts.by_split, by_class=counts.by_class,
    )  # fmt: skip


def _gallery(
    model: ImageModel,
    generator: DiffusionModel | None,
    vae: LatentModel,
    held_out: NDArray[np.uint8],
    measured: Measurement,
    seed: int,
) -> dict[str, Tensor]:
    """The arrays of :mod:`models.quality.gallery`, as the registry stores them: uint8."""
    batch_size = measured.probe.batch_size
    shown = {"traversal": traversal(model, measured.latent_order, batch_size)}
    if len(held_out):
        shown["triptychs"] = triptychs(model, vae, held_out, batch_size)
    if generator is not None:
        shown["noise_to_image"] = noise_to_image(generator, measured.probe, seed)
    return {name: torch.from_numpy(images) for name, images in shown.items()}


def _promote_if_no_worse(registry: Registry, version: ModelVersion) -> None:
    logger = get_run_logger()
    try:
        comparisons = promote(registry, version.version)
    except ModelError as error:
        logger.warning(f"model {version.version} stays a candidate: {error}")
        return
    logger.info(f"model {version.version} is production now{''.join(f'; {one}' for one in comparisons)}")
