"""What a faster sampler costs: figures of the same latents and noise seeds, sampled in different ways."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.core.progress import Step, report
from image_longitudinal.models.imaging.assembly import (
    LIGHT_DECODER,
    STUDENT,
    assemble_diffusion,
    load_vae,
    use_light_decoder,
    with_denoiser,
)
from image_longitudinal.models.imaging.backends import diffusion_images
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.quality.features import encoder_features
from image_longitudinal.models.quality.fidelity import frechet_distance
from image_longitudinal.models.quality.recoverability import encoder_reader, probe_latents, r_squared
from image_longitudinal.models.registry.metadata import RANDOM_EFFECTS, SamplerComparison
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.vae.latent_model import LatentModel

REFERENCE = ("ddpm", 50)  # the published sampler, which losses are relative to


class SamplerFigures(NamedTuple):
    """Mean R² of some latent dimensions read by the VAE's encoder, and FD to real images in its features."""

    recoverability: float
    fd: float


def measure_sampler(
    model: ImageModel,
    vae: LatentModel,
    latent_dims: Sequence[int],
    real: NDArray[np.uint8],
    *,
    n: int,
    batch_size: int,
    seed: int,
) -> SamplerFigures:
    """Figures of ``n`` images; comparable between samplers when all other arguments are equal.

    The VAE reads ``latent_dims`` back and gives the features. ``real``: training images, uint8 (m, S, S); ``seed``: of
    latents and noise.
    """
    latents, seeds = probe_latents(seed, n, model.latent_dim)
    images = generate_in_batches(model, latents, seeds, batch_size)
    figures = r_squared(latents, encoder_reader(vae)(images))[list(latent_dims)]
    features = encoder_features(vae)
    return SamplerFigures(float(figures.mean()), frechet_distance(features(images), features(real)))


def compare_samplers(
    version: ModelVersion,
    weights: dict[str, dict[str, Tensor]],
    real: NDArray[np.uint8],
    *,
    sampler: tuple[str, int],
    student_steps: int,
    probe: ProbeConfig,
    seed: int,
    device: torch.device,
) -> tuple[SamplerComparison, ...]:
    """Measure the reference sampler, the probe's, ``sampler`` and the student, the last three with each decoder.

    Args:
        version, weights: the distilled model; its own and the distilled weights, by name.
        real: training images, uint8 (m, S, S).
        sampler: solver and steps that data sets are generated with.
        student_steps: solver steps of the student.
        probe: solver and steps that the version was measured with, and how many images to compare.
    """
    samplers: list[tuple[str, int]] = [(probe.scheduler, probe.steps)]
    if sampler != samplers[0] and sampler[0] != STUDENT:
        samplers.append(sampler)
    if STUDENT in weights:
        samplers.append((STUDENT, student_steps))
    decoders: list[Literal["full", "light"]] = ["full", "light"] if LIGHT_DECODER in weights else ["full"]
    compared = [(*REFERENCE, decoders[0]), *((*sampler, decoder) for decoder in decoders for sampler in samplers)]
    vae = load_vae(version).to(device)
    latent_dims = version.metadata.measured.latent_order[:RANDOM_EFFECTS]

    def figures(scheduler: str, steps: int, decoder: str) -> SamplerFigures:
        network = weights["diffusion"]
        if scheduler == STUDENT:
            network = with_denoiser(network, weights[STUDENT])
        model = assemble_diffusion(version.metadata.networks, load_vae(version), network)
        if decoder == "light":
            use_light_decoder(model, weights[LIGHT_DECODER])
        model.to(device).for_sampling(torch.float32)
        return measure_sampler(
            diffusion_images(model, scheduler, steps, device, digest=""), vae, latent_dims, real,
            n=probe.n_images, batch_size=probe.batch_size, seed=seed,
        )  # fmt: skip

    measured = []
    for place, (scheduler, steps, decoder) in enumerate(compared, 1):
        name = f"{scheduler} with {steps} steps, {decoder} decoder"
        report(Step(f"compare samplers, {place} of {len(compared)}: {name}"))
        measured.append(figures(scheduler, steps, decoder))
    return tuple(
        SamplerComparison(
            solver=scheduler, steps=steps, decoder=decoder, recoverability=found.recoverability, fd=found.fd,
            recoverability_loss_percent=loss_percent(
                measured[0].recoverability, found.recoverability, more_is_better=True
            ),
            fd_loss_percent=loss_percent(measured[0].fd, found.fd, more_is_better=False),
        )
        for (scheduler, steps, decoder), found in zip(compared, measured, strict=True)
    )  # fmt: skip


def loss_percent(reference: float, value: float, *, more_is_better: bool) -> float:
    """By how many per cent a figure is worse than the reference's; negative if it is better."""
    return 100 * ((reference - value) if more_is_better else (value - reference)) / abs(reference)
