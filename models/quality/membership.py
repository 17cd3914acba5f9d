"""Whether a model tells which scans it was trained on, by the loss of its networks on each scan.

Whoever has a model and a scan can compute how well the one fits the other (Yeom et al. 2018, arXiv 1709.01604, for
losses; Carlini et al. 2023, arXiv 2301.13188, for diffusion). Scans of patients that no network was trained on are
what training scans are told from.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import NoiseSchedule, prediction_target
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.quality.judge.judge import RealScans
from image_longitudinal.models.quality.judge.resampling import REPLICATES, Vector, bootstrap_weights, interval
from image_longitudinal.models.registry.judgement import Interval
from image_longitudinal.models.registry.metadata import MembershipFigures
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.latent_model import LatentModel

MOST_SCANS = 160  # of each kind: the area under the curve is then known to .03
NOISE_LEVELS = 6  # timesteps, evenly spaced; each image gets the same noise, so that losses differ by image alone
LEAST_LOSS = 1e-9  # smaller ones are rounding
BATCH = 16


def membership_figures(
    vae: LatentModel, generator: DiffusionModel | None, train: RealScans, held_out: RealScans, seed: int
) -> MembershipFigures:
    """How well training scans are told from scans of other patients by the losses of the VAE and of ``generator``.

    Both networks are in evaluation mode on the same device.
    """
    scans = _at_most(train), _at_most(held_out)
    of_vae = [reconstruction_losses(vae, one.images) for one in scans]
    of_generator = None
    if generator is not None:
        of_generator = [denoising_losses(generator, vae, one.images, seed) for one in scans]
    patients = [one.patients for one in scans]
    return MembershipFigures(
        members=len(patients[0]), others=len(patients[1]), vae_auc=_auc(of_vae, patients, seed),
        diffusion_auc=_auc(of_generator, patients, seed) if of_generator else None,
    )  # fmt: skip


@torch.no_grad()
def reconstruction_losses(vae: LatentModel, images: NDArray[np.uint8]) -> Vector:
    """Mean squared error (grey 0 to 1) of each image (n, S, S) uint8 encoded and decoded again, (n,)."""
    found = []
    for view in _views(vae, images):
        found.append((vae.decode(vae.encode(view)) - view).square().mean((1, 2, 3)).double().cpu())
    return torch.cat(found).numpy()


@torch.no_grad()
def denoising_losses(generator: DiffusionModel, vae: LatentModel, images: NDArray[np.uint8], seed: int) -> Vector:
    """The loss of each image (n, S, S) uint8 without min-SNR weights: its logarithm, averaged over noise levels, (n,).

    The logarithm, since what a network knows by heart shows at weak noise, where losses are small.
    """
    schedule = NoiseSchedule.of(generator.schedule)
    levels = ((np.arange(NOISE_LEVELS) + 0.5) / NOISE_LEVELS * len(schedule.alpha)).astype(int)
    dtype = next(iter(generator.denoiser.parameters()), torch.zeros(())).dtype
    random = step_generator(seed, "membership", 0)
    noise = [torch.randn((1, *generator.working_shape), generator=random).to(vae.device) for _ in levels]
    found = []
    for view in _views(vae, images):
        latents = vae.encode(view)
        working = generator.to_working(view, latents)
        z, context = latents.to(dtype), generator.context(latents).to(dtype)
        losses = torch.zeros(len(view), dtype=torch.float64)
        for level, eps in zip(levels, noise, strict=True):
            alpha, sigma = schedule.alpha[level].to(vae.device), schedule.sigma[level].to(vae.device)
            noisy = (alpha * working + sigma * eps).to(dtype)
            target = prediction_target(working, eps, alpha, sigma, schedule.prediction_type)
            timesteps = torch.full((len(view),), int(level), dtype=torch.int64, device=vae.device)
            predicted = generator.denoise(generator.denoiser, noisy, timesteps, z, context).float()
            squared = (predicted - target).square()
            weight = generator.error_weight(timesteps)
            loss = (squared if weight is None else weight * squared).mean((1, 2, 3)).double().cpu()
            losses += loss.clamp(min=LEAST_LOSS).log()
        found.append(losses / NOISE_LEVELS)
    return torch.cat(found).numpy()


def _views(vae: LatentModel, images: NDArray[np.uint8]) -> list[Tensor]:
    return [vae.view(to_unit(images[start : start + BATCH], vae.device)) for start in range(0, len(images), BATCH)]


def _at_most(scans: RealScans) -> RealScans:
    chosen = np.linspace(0, len(scans.images) - 1, min(len(scans.images), MOST_SCANS)).astype(int)
    return RealScans(scans.images[chosen], scans.patients[chosen])


def _auc(losses: list[Vector], patients: list[NDArray[np.str_]], seed: int) -> Interval:
    """How often a member's loss is smaller than another's, with an interval by patients drawn again.

    Both lists hold members' and others' (n,).
    """
    members, others = losses
    smaller = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    rng = np.random.default_rng(seed)
    a, b = (bootstrap_weights(names, REPLICATES, rng) for names in patients)
    replicates = np.einsum("ri,ij,rj->r", a, smaller, b, optimize=True) / (a.sum(1) * b.sum(1))
    return interval(float(smaller.mean()), replicates, 0, 1)
