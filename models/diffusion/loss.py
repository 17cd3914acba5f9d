"""The diffusion training objective: add noise to a batch, predict, weigh by min-SNR."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import NoiseSchedule, prediction_target, to_x0_eps
from image_longitudinal.models.vae.latent_model import LatentModel


@dataclass(frozen=True)
class EncoderLoss:
    """Reads z from an image by the frozen encoder.

    ``readability`` (D,), 0 to 1: how well the encoder can read each dimension at all. ``weight``: of the term.
    """

    vae: LatentModel
    readability: Tensor
    weight: float

    def squared_error(self, images: Tensor, latents: Tensor) -> Tensor:
        """Squared error averaged over readable dimensions, (B,), of images (B, 1, S, S) generated from z (B, D)."""
        squared = (self.vae.encode(images) - latents).square()
        return (squared * self.readability).sum(1) / self.readability.sum()


def min_snr_weight(snr: Tensor, prediction_type: str, gamma: float | None) -> Tensor:
    """Min-SNR-γ weights (Hang et al. 2023): min(snr, γ)/snr for noise, min(snr, γ)/(snr + 1) for velocity.

    A flow weighs all timesteps alike. The analogous min(snr, γ)/(1 + √snr)² would train it too little at the noisiest
    timesteps, where an image gets its shape: z was then read back at R² .84 instead of .89.

    Signal-to-noise ratios (B,) → weights (B,). ``gamma`` is the cap (original: 5); None weighs all timesteps alike.
    """
    if gamma is None or prediction_type == "flow_prediction":
        return torch.ones_like(snr)
    # Both are min(snr, γ) times the squared factor from the prediction's error to that of the clean tensor.
    return snr.clamp(max=gamma) / {"epsilon": snr, "v_prediction": snr + 1}[prediction_type]


def diffusion_loss(
    model: DiffusionModel,
    denoiser: nn.Module,
    schedule: NoiseSchedule,
    working: Tensor,
    latents: Tensor,
    generator: torch.Generator,
    *,
    min_snr_gamma: float | None,
    noise_offset: float = 0.0,
    encoder_loss: EncoderLoss | None = None,
    context: Tensor | None = None,
    rows: slice = slice(None),
) -> dict[str, Tensor]:
    """Weighted mean squared error of the prediction at random timesteps.

    Args:
        model: gives context and the call convention.
        denoiser: the network in training (possibly wrapped by accelerate).
        schedule: the noise schedule of training.
        working, latents: clean working tensors, (B, C, h, w), and conditioning vectors, (B, D).
        generator: on the CPU; source of timesteps and noise.
        min_snr_gamma: see :func:`min_snr_weight`.
        noise_offset: standard deviation of noise that is constant over the pixels of a channel (original: 0.1).
        encoder_loss: reads z back from the predicted clean image.
        context: of the whole batch; that of the latents if not given.
        rows: of the batch that the loss is computed for; random numbers are generated for all.

    Returns:
        ``loss``, a scalar to minimise, and with ``encoder_loss`` its part ``reading``.
    """
    timesteps = torch.randint(0, len(schedule.alpha), (len(working),), generator=generator)
    noise = torch.randn(working.shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn((*working.shape[:2], 1, 1), generator=generator)
    timesteps, noise = timesteps[rows].to(working.device), noise[rows].to(working.device)
    working, latents = working[rows], latents[rows]
    alpha, sigma = (values.to(working.device)[timesteps] for values in (schedule.alpha, schedule.sigma))
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    noisy = a * working + s * noise
    target = prediction_target(working, noise, a, s, schedule.prediction_type)
    if context is None:
        with torch.no_grad():
            context = model.context(latents)
    else:
        context = context[rows]
    predicted = model.denoise(denoiser, noisy, timesteps, latents, context).float()
    weight = min_snr_weight((alpha / sigma).square(), schedule.prediction_type, min_snr_gamma)
    squared = (predicted - target.float()).square()
    by_element = model.error_weight(timesteps)
    loss = (weight * (squared if by_element is None else by_element * squared).mean((1, 2, 3))).mean()
    if encoder_loss is None:
        return {"loss": loss}
    x0 = to_x0_eps(predicted, noisy, a, s, schedule.prediction_type).x0
    # At high noise x0 is a blurred guess, from which z cannot be read: α² lowers the weight there.
    reading = (alpha.square() * encoder_loss.squared_error(model.to_images(x0, context), latents)).mean()
    return {"loss": loss + encoder_loss.weight * reading, "reading": reading}
