"""Pictures of a finished model as arrays: latent traversals, denoising step by step, scans beside reconstructions."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.imaging.grey_images import to_grey_levels, to_unit
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.models.vae.latent_model import LatentModel

SWEEP = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # values of a latent dimension, in standard deviations
SWEPT, TRIPTYCHS, FRAMED = 4, 6, 4  # dimensions, scans, denoised images
MAX_FRAMES = 24


def traversal(model: ImageModel, latent_dims: list[int], batch_size: int) -> NDArray[np.uint8]:
    """Images (rows, 7, S, S): in each row one of the first four ``latent_dims`` goes from -3 to 3, the others are 0.

    All have the same noise, so differences come from that dimension alone.
    """
    rows = latent_dims[:SWEPT]
    latents = np.zeros((len(rows), len(SWEEP), model.latent_dim), np.float32)
    for row, dimension in enumerate(rows):
        latents[row, :, dimension] = SWEEP
    flat = latents.reshape(-1, model.latent_dim)
    images = generate_in_batches(model, flat, np.ones(len(flat), np.int64), batch_size)
    return images.reshape(len(rows), len(SWEEP), *images.shape[1:])


def triptychs(model: ImageModel, vae: LatentModel, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.uint8]:
    """Scans (n, S, S) uint8, the VAE's reconstructions, and images generated from the same latents: (3, n, S, S)."""
    device, size = vae.device, (vae.image_size, vae.image_size)
    view = vae.view(to_unit(images[:TRIPTYCHS], device))
    small = torch.nn.functional.interpolate(view, size, mode="bilinear", antialias=True)
    with torch.no_grad():
        latents = vae.encode(small)
        decoded = vae.decode(latents)
    decoded = torch.nn.functional.interpolate(decoded, view.shape[-2:], mode="bilinear")
    z = latents.cpu().numpy().astype(np.float32)
    generated = generate_in_batches(model, z, np.arange(len(z)), batch_size)
    return np.stack([to_grey_levels(view), to_grey_levels(decoded), generated])


def noise_to_image(model: DiffusionModel, probe: ProbeConfig, seed: int) -> NDArray[np.uint8]:
    """Four images denoised by the probe's solver, (frames, 4, S, S): the tensor before each step, and the result."""
    latents, seeds = probe_latents(seed, FRAMED, model.latent_dim, "noise to image")
    device, recording = next(model.denoiser.parameters()).device, _Recording(model)
    z, noise_seeds = (torch.from_numpy(values).to(device) for values in (latents, seeds))
    final = sample_on_device(recording, z, noise_seeds, scheduler=probe.scheduler, steps=probe.steps)  # type: ignore[arg-type]
    with torch.no_grad():
        context = model.context(z)
        frames = [to_grey_levels(model.to_images(x, context)) for x in recording.inputs]
    frames = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).astype(int))]
    return np.stack([*frames, final.cpu().numpy()])


class _Recording:
    """A diffusion model that records the inputs of its denoiser."""

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        self.inputs: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def denoise(self, denoiser: Any, noisy: Tensor, *arguments: Any) -> Tensor:
        """Forward to the model, and record ``noisy``."""
        self.inputs.append(noisy.float().clone())
        return self._model.denoise(denoiser, noisy, *arguments)
