"""Training tasks: each stores its network in the workspace under its spec's digest, and resumes from checkpoints."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prefect import get_run_logger, task
from torch import Tensor

from image_longitudinal.core.config import ComputeConfig, Config, Section
from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.core.gates import GateKind, accepting, require_open
from image_longitudinal.core.network_kinds import check_networks, check_solvers
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.train import train_diffusion
from image_longitudinal.models.flattened.images import FlattenedImages, flatten_images
from image_longitudinal.models.flattened.retina import FlattenedRetina
from image_longitudinal.models.flattened.train import fit_flattened_retina, train_flattened_diffusion
from image_longitudinal.models.imaging.assembly import assemble_vae, diffusion_weights, trained_weights
from image_longitudinal.models.imaging.backends import needs_diffusion
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.registry.gates import model_gates
from image_longitudinal.models.registry.metadata import NetworkConfigs
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.processes import (
    Reporter,
    main_process_first,
    rank,
    run_in_processes,
    training_processes,
)
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.private_train import train_private_vae
from image_longitudinal.models.vae.train import train_vae
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh
from image_longitudinal.tasks.engine.gates import pass_gates
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.reports.model_card import model_card
from image_longitudinal.tasks.training.gates import latent_gates, recorded_gates
from image_longitudinal.tasks.training.networks import TrainedDiffusion, TrainedNetwork
from image_longitudinal.tasks.training.register import register_model, registered_version
from image_longitudinal.tasks.training.specs import DiffusionTrainingSpec, RegistrationSpec, VAETrainingSpec
from image_longitudinal.tasks.workspace import Workspace


class TrainingInputs(NamedTuple):
    """Where a training reads from: folder of prepared images, folder of the start version, weights of the VAE."""

    prepared: str
    start: str | None
    vae: str | None = None

    def images(self, size: int) -> tuple[ImageRows, ImageRows]:
        """Training and validation images at one size."""
        images = open_prepared(self.prepared)
        if not len(images.split("train")):
            raise ModelError("no training images", where=images.folder, do="lower the other splits' fractions")
        return images.rows(size, "train"), images.rows(size, "validation")

    def patients(self) -> NDArray[np.int64]:
        """The number of the patient of each training image."""
        records = [image for image in open_prepared(self.prepared).manifest.images if image.split == "train"]
        return np.unique([image.patient for image in records], return_inverse=True)[1]

    def flattened(self, size: int, path: Path) -> tuple[FlattenedImages, FlattenedImages, NDArray[np.int64]]:
        """Flattened training and validation images for a model's size, kept beside ``path``; patients of the former."""
        prepared = open_prepared(self.prepared)
        scans, others = self.images(max(prepared.sizes))
        with main_process_first():
            train = flatten_images(scans, size, path.with_name(f"train-{size}"))
            validation = flatten_images(others, size, path.with_name(f"validation-{size}"))
        return train, validation, self.patients()

    def weights(self, network: str) -> dict[str, Tensor] | None:
        """The trained weights of a network of the start version, if there is one and it has that network."""
        version = ModelVersion.open(Path(self.start)) if self.start else None
        return trained_weights(version.tensors(network)) if version and network in version.networks else None


def trained_model(
    config: Config,
    prepared: PreparedImages,
    workspace: Workspace,
    refresh: bool = False,
    start: ModelVersion | None = None,
    accept: Sequence[GateKind] = (),
) -> ModelVersion:
    """The registered version for these images and this configuration; trains what is missing, or all with ``refresh``.

    Training starts from the weights of ``start``, or from random ones. Checkpoints are in the workspace. ``accept``
    names the kinds of gates (``config.gates``) that may fail.

    Raises:
        ConfigError: VAE, diffusion model and solver do not fit each other, or private training would not be private.
        RefusedByGateError: the VAE says too little of z, so no diffusion model is trained; or the finished model, also
            one that was registered before, is not good enough.
    """
    check_networks(config)
    if config.generator.backend != "vae":
        check_solvers(config, config.diffusion.kind)
    if config.vae.dp is not None and start is not None:
        raise ConfigError(
            "private training starts from random weights", where="vae.dp", got=f"those of model {start.version}",
            do="train with start=afresh: nothing bounds what earlier weights know of these patients",
        )  # fmt: skip
    inputs = TrainingInputs(str(prepared.folder), str(start.folder) if start else None)

    def fitted(fit: Any, spec: VAETrainingSpec | DiffusionTrainingSpec, inputs: TrainingInputs) -> TrainedNetwork:
        folder = workspace.training(spec.digest)
        if refresh:
            shutil.rmtree(folder, ignore_errors=True)  # its checkpoints too
        parameters = {"spec": spec, "folder": str(folder), "inputs": inputs, "compute": config.compute}
        return cached_or_fresh(fit, TrainedNetwork.is_intact, refresh, **parameters)

    vae_spec = VAETrainingSpec.of(config, prepared.digest, start)
    vae = fitted(fit_vae, vae_spec, inputs)
    before = latent_gates(vae_spec, vae, prepared, config, accept)
    pass_gates(before, "latents", "no diffusion model is trained, and the model is not registered")
    diffusion_spec, diffusion = None, None
    if needs_diffusion(config.generator.backend):
        diffusion_spec = DiffusionTrainingSpec.of(config, vae_spec, vae.sha256)
        diffusion = fitted(fit_diffusion, diffusion_spec, inputs._replace(vae=vae.weights))
    spec = RegistrationSpec.from_config(config, vae=vae_spec, diffusion=diffusion_spec)
    version = registered_version(
        register_model, spec, config, prepared, workspace, refresh, vae=vae, diffusion=diffusion,
        real_scans=config.report.include_real_scans, bars=config.gates, accept=tuple(accept), before=before,
    )  # fmt: skip
    gates = (*before, *accepting(model_gates(version.metadata.measured, config.gates), accept))
    if gates != recorded_gates(version):  # it was registered under other bars, or before there were gates
        pass_gates(gates, "model", f"model {version.version}, which is registered, is not used")
        workspace.registry.record_gates(version, gates, model_card(version.metadata, gates))
    require_open(gates, f"model {version.version}, which is registered, is not used")
    return version


@task(name="train-vae", task_run_name="train VAE", **CACHED)
@holds_gpu_slots
def fit_vae(spec: VAETrainingSpec, folder: str, inputs: TrainingInputs, compute: ComputeConfig) -> TrainedNetwork:
    """Train the VAE, or resume from its checkpoint."""
    steps = 0 if spec.vae.kind == "flattened" else spec.vae.steps  # fitted in closed form
    return _fitted(_train_vae, "vae", steps, folder, (spec, inputs), compute)


@task(name="train-diffusion", task_run_name="train diffusion model", **CACHED)
@holds_gpu_slots
def fit_diffusion(
    spec: DiffusionTrainingSpec, folder: str, inputs: TrainingInputs, compute: ComputeConfig
) -> TrainedNetwork:
    """Train the diffusion model on posterior samples of the VAE, or resume from its checkpoint."""
    return _fitted(_train_diffusion, "diffusion", spec.diffusion.steps, folder, (spec, inputs), compute)


def _fitted(
    train: Callable[..., None], name: str, steps: int, folder: str, arguments: tuple[Any, Any], compute: ComputeConfig
) -> TrainedNetwork:
    """The files of a training, which runs in one process per GPU unless they are in place and intact.

    ``steps`` is 0 if there are none.
    """
    path = Path(folder, name)
    if (found := TrainedNetwork.find(path)) is None:
        if path.with_suffix(".json").exists():
            get_run_logger().warning(f"{name} is trained again: the files of its training are damaged ({path})")
        report = Progress(f"train {name}", steps, "steps").of_training
        processes, threads = training_processes(compute), compute.training_threads
        run_in_processes(train, (path, compute.device, *arguments), processes, threads, report)
        found = TrainedNetwork.find(path)
    if found is None:
        do = "check the disk, then run the same command again"
        raise ModelError("a trained network was damaged just after it was written", where=path, do=do)
    return found


def _train_vae(path: Path, device: str, spec: VAETrainingSpec, inputs: TrainingInputs, report: Reporter | None) -> None:
    """What each process of :func:`fit_vae` runs."""
    if spec.vae.kind == "flattened":
        train, _, patients = inputs.flattened(spec.vae.image_size, path)
        retina, fitted = fit_flattened_retina(train, patients, spec.vae, spec.seed)
        _save(path, retina.state_dict(), fitted)
        return
    images, validation = inputs.images(spec.vae.image_size)
    arguments = (spec.vae, spec.seed, path.with_suffix(".checkpoint"), device, report)
    if spec.vae.dp is not None:
        vae, figures = train_private_vae(images, inputs.patients(), validation, *arguments)
    else:
        vae, figures = train_vae(images, validation, *arguments, initial=inputs.weights("vae"))
    _save(path, vae.state_dict(), figures)


def _train_diffusion(
    path: Path, device: str, spec: DiffusionTrainingSpec, inputs: TrainingInputs, report: Reporter | None
) -> None:
    """What each process of :func:`fit_diffusion` runs."""
    assert inputs.vae is not None
    vae = assemble_vae(NetworkConfigs(vae=spec.vae.vae), load_tensors(Path(inputs.vae), spec.vae_sha256)[0])
    size, config, initial = spec.diffusion.image_size, spec.diffusion, inputs.weights("diffusion")
    arguments = (spec.vae.seed, path.with_suffix(".checkpoint"), device, report, initial)
    model: DiffusionModel
    scans, other = inputs.images(size)
    if isinstance(vae, FlattenedRetina):
        train, validation, _ = inputs.flattened(size, Path(inputs.vae))
        model, figures = train_flattened_diffusion(vae, train, validation, scans, other, config, *arguments)
    else:
        assert isinstance(vae, VAE)
        model, figures = train_diffusion(vae, scans, other, config, *arguments)
    scale = model.residual_scale if isinstance(model, ResidualDiffusion) else None
    _save(path, diffusion_weights(model), TrainedDiffusion(training=figures, residual_scale=scale))


def _save(path: Path, weights: dict[str, Tensor], figures: Section) -> None:
    if rank() == 0:
        TrainedNetwork.write(path, weights, figures)
