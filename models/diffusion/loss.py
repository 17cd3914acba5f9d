"""The diffusion training objective: noise a batch, predict, weigh by min-SNR."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from models.diffusion.interface import DiffusionModel


def signal_to_noise(scheduler: DDPMScheduler, timesteps: Tensor) -> Tensor:
    """ᾱ/(1 - ᾱ) at integer timesteps (B,)."""
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas / (1 - alphas)


def min_snr_weight(snr: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """Min-SNR-γ weights (Hang et al. 2023): min(snr, γ)/snr for noise, min(snr, γ)/(snr + 1) for velocity.

    Args:
        snr: signal-to-noise ratios, (B,).
        prediction_type: ``epsilon`` or ``v_prediction``.
        gamma: the cap (original: 5); None weighs all timesteps alike.
    """
    if gamma is None:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


def diffusion_loss(
    model: DiffusionModel,
    denoiser: nn.Module,
    scheduler: DDPMScheduler,
    working: Tensor,
    latents: Tensor,
    generator: torch.Generator,
    *,
    min_snr_gamma: float | None,
    noise_offset: float = 0.0,
) -> Tensor:
    """Weighted mean squared error of the prediction at random timesteps, a scalar.

    Args:
        model: gives context and the call convention.
        denoiser: the network in training (possibly wrapped by accelerate).
        scheduler: the noise schedule trained on.
        working: clean working tensors, (B, C, h, w).
        latents: conditioning vectors, (B, D).
        generator: on the CPU; source of timesteps and noise.
        min_snr_gamma: see :func:`min_snr_weight`.
        noise_offset: standard deviation of a draw added to all pixels of a channel alike (original: 0.1).
    """
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(working),), generator=generator)
    noise = torch.randn(working.shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn((*working.shape[:2], 1, 1), generator=generator)
    timesteps, noise = timesteps.to(working.device), noise.to(working.device)
    noisy = scheduler.add_noise(working, noise, timesteps)
    kind = scheduler.config.prediction_type
    target = scheduler.get_velocity(working, noise, timesteps) if kind == "v_prediction" else noise
    with torch.no_grad():
        context = model.context(latents)
    predicted = model.denoise(denoiser, noisy, timesteps, latents, context)
    weight = min_snr_weight(signal_to_noise(scheduler, timesteps), kind, min_snr_gamma)
    return (weight * (predicted.float() - target.float()).square().mean((1, 2, 3))).mean()
