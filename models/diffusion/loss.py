"""The diffusion training objective: noise a batch, predict, weigh by min-SNR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.diffusion.solvers import alphas_and_sigmas
from image_longitudinal.models.vae.network import VAE


@dataclass(frozen=True)
class NoiseLevels:
    """α and σ of every timestep, float32 (T,), and what the network predicts: noisy = α·clean + σ·noise."""

    alpha: Tensor
    sigma: Tensor
    kind: str

    @classmethod
    def of(cls, schedule: dict[str, Any]) -> NoiseLevels:
        """Those of a :attr:`DiffusionModel.schedule`."""
        alpha, sigma = (torch.from_numpy(values).float() for values in alphas_and_sigmas(schedule))
        return cls(alpha, sigma, str(schedule["prediction_type"]))


@dataclass(frozen=True)
class EncoderLoss:
    """Reads z from an image by the frozen encoder; ``share`` (D,), 0 to 1, is how far it can read each entry at all."""

    vae: VAE
    share: Tensor
    weight: float

    def squared_error(self, images: Tensor, latents: Tensor) -> Tensor:
        """Mean squared error over the entries that can be read, (B,), of images (B, 1, S, S) made from z (B, D)."""
        mean, _ = self.vae.posterior(images)
        return ((self.vae.standardised(mean) - latents).square() * self.share).sum(1) / self.share.sum()


def min_snr_weight(snr: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """Min-SNR-γ weights (Hang et al. 2023): min(snr, γ)/snr for noise, min(snr, γ)/(snr + 1) for velocity.

    A flow weighs all timesteps alike. In the same form, min(snr, γ)/(1 + √snr)², it would learn next to nothing where
    little but noise is seen, which is where an image takes its shape: z then read back at R² .84 in place of .89.

    Args:
        snr: signal-to-noise ratios, (B,).
        prediction_type: ``epsilon``, ``v_prediction`` or ``flow_prediction``.
        gamma: the cap (original: 5); None weighs all timesteps alike.
    """
    if gamma is None or prediction_type == "flow_prediction":
        return torch.ones_like(snr)
    # Both are min(snr, γ) times the squared factor from the prediction's error to that of the clean tensor.
    return snr.clamp(max=gamma) / {"epsilon": snr, "v_prediction": snr + 1}[prediction_type]


def diffusion_loss(
    model: DiffusionModel,
    denoiser: nn.Module,
    levels: NoiseLevels,
    working: Tensor,
    latents: Tensor,
    generator: torch.Generator,
    *,
    min_snr_gamma: float | None,
    noise_offset: float = 0.0,
    encoder_loss: EncoderLoss | None = None,
    part: slice = slice(None),
) -> dict[str, Tensor]:
    """Weighted mean squared error of the prediction at random timesteps.

    Args:
        model: gives context and the call convention.
        denoiser: the network in training (possibly wrapped by accelerate).
        levels: the noise schedule trained on.
        working: clean working tensors, (B, C, h, w).
        latents: conditioning vectors, (B, D).
        generator: on the CPU; source of timesteps and noise.
        min_snr_gamma: see :func:`min_snr_weight`.
        noise_offset: standard deviation of a draw added to all pixels of a channel alike (original: 0.1).
        encoder_loss: reads z back from the predicted clean image.
        part: rows of the batch that the loss is taken over; draws are made for all.

    Returns:
        ``loss``, a scalar to minimise, and with ``encoder_loss`` its part ``reading``.
    """
    timesteps = torch.randint(0, len(levels.alpha), (len(working),), generator=generator)
    noise = torch.randn(working.shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn((*working.shape[:2], 1, 1), generator=generator)
    timesteps, noise = timesteps[part].to(working.device), noise[part].to(working.device)
    working, latents = working[part], latents[part]
    alpha, sigma = (level.to(working.device)[timesteps] for level in (levels.alpha, levels.sigma))
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    noisy = a * working + s * noise
    target = {"epsilon": noise, "v_prediction": a * noise - s * working, "flow_prediction": noise - working}[
        levels.kind
    ]
    with torch.no_grad():
        context = model.context(latents)
    predicted = model.denoise(denoiser, noisy, timesteps, latents, context).float()
    weight = min_snr_weight((alpha / sigma).square(), levels.kind, min_snr_gamma)
    loss = (weight * (predicted - target.float()).square().mean((1, 2, 3))).mean()
    if encoder_loss is None:
        return {"loss": loss}
    clean = {"epsilon": (noisy - s * predicted) / a, "v_prediction": a * noisy - s * predicted}.get(
        levels.kind, noisy - s * predicted
    )
    # Where little is left of the image the clean tensor is a blurred guess: there z need not be in it.
    reading = (alpha.square() * encoder_loss.squared_error(model.to_images(clean, context), latents)).mean()
    return {"loss": loss + encoder_loss.weight * reading, "reading": reading}
