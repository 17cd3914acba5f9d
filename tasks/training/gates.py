"""The gates of training: before the diffusion model, and before a finished model is registered or used."""

from collections.abc import Sequence

from prefect import task

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.gates import Gate, GateKind, GatesConfig, accepting, gate
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.imaging.assembly import assemble_vae
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.quality.latent_signal import LatentSignal, latent_signal
from image_longitudinal.models.registry.gates import model_gates
from image_longitudinal.models.registry.metadata import RANDOM_EFFECTS, NetworkConfigs
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.arithmetic import with_training_threads
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh
from image_longitudinal.tasks.engine.gpu_slots import holds_gpu_slots
from image_longitudinal.tasks.engine.progress import run_logger
from image_longitudinal.tasks.training.networks import TrainedNetwork
from image_longitudinal.tasks.training.specs import VAETrainingSpec


class LatentSignalSpec(Spec):
    """Decides what a trained VAE's images say of z; ``vae_sha256``: of its weights."""

    product = "latent signal"
    code_version = 1
    vae: VAETrainingSpec
    vae_sha256: str


def latent_gates(
    spec: VAETrainingSpec, vae: TrainedNetwork, prepared: PreparedImages, config: Config, accept: Sequence[GateKind]
) -> tuple[Gate, ...]:
    """The gates before a diffusion model is trained: what the VAE around which it is trained says of z."""
    signal = cached_or_fresh(
        measure_latents, lambda _: True, spec=LatentSignalSpec(vae=spec, vae_sha256=vae.sha256), vae=vae,
        prepared=str(prepared.folder), compute=config.compute,
    )  # fmt: skip
    return accepting(signal_gates(signal, config.gates), accept)


def signal_gates(signal: LatentSignal, bars: GatesConfig) -> tuple[Gate, ...]:
    """The gates of a measured signal: each is that of the third-best dimension, as three become random effects."""
    third = min(RANDOM_EFFECTS, len(signal.read_back)) - 1
    name = "third-best dimension of z read back from the VAE's own images, R²"
    gates = [gate("before diffusion", "latents", name, signal.read_back[third], bars)]
    if signal.posterior is not None:
        name = "third-best dimension of z, share that the VAE's posterior means hold"
        gates.append(gate("before diffusion", "latents", name, signal.posterior[third], bars))
    return tuple(gates)


def gates_of_version(version: ModelVersion, bars: GatesConfig, accept: Sequence[GateKind]) -> tuple[Gate, ...]:
    """The gates of a registered model under these bars, opened by what is accepted now or was when it was registered.

    What its VAE says of z is known only of models that were trained here.
    """
    recorded = version.gates
    before = [one for one in recorded if one.stage == "before diffusion"]
    kinds = {*accept, *(one.kind for one in recorded if one.accepted)}
    return accepting([*before, *model_gates(version.metadata.measured, bars)], kinds)


def recorded_gates(version: ModelVersion) -> tuple[Gate, ...]:
    """The gates on record; none if the record is damaged, which the log says: it is then written again."""
    try:
        return version.gates
    except ModelError as error:
        run_logger().warning(str(error))
        return ()


@task(name="measure-latents", task_run_name="read z from the VAE's own images", **CACHED)
@holds_gpu_slots
@with_training_threads
def measure_latents(spec: LatentSignalSpec, vae: TrainedNetwork, prepared: str, compute: ComputeConfig) -> LatentSignal:
    """:func:`models.quality.latent_signal.latent_signal` of a trained VAE; ``prepared``: folder of training images."""
    network = assemble_vae(NetworkConfigs(vae=spec.vae.vae), vae.tensors()).to(default_device(compute.device))
    private = spec.vae.vae.dp is not None  # then a figure of training scans, without noise, would be a leak
    images = None if private else open_prepared(prepared).rows(spec.vae.vae.image_size, "train")
    return latent_signal(network, images, spec.vae.seed)
