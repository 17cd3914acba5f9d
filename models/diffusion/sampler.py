"""Sampling: from per-subject noise to images, a batch at a time, by any of :mod:`models.diffusion.solvers`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.diffusion.solvers import Split, get_solver, make_path, split
from image_longitudinal.models.imaging.noise import subject_noise
from image_longitudinal.models.training.tensors import as_grey_levels


@torch.no_grad()
def draw_images(model: DiffusionModel, latents: Tensor, seeds: Tensor, *, scheduler: str, steps: int) -> Tensor:
    """Draw one image per latent vector; nothing here waits for the device.

    Every random number of an image comes from its own seed, so neither the batch nor the device count changes it
    (beyond the device's rounding). The network works in the type of its weights, the solver in float32.

    Args:
        model: the trained diffusion model, in evaluation mode, on its device.
        latents: (B, D) float32 on that device.
        seeds: one per image, (B,) int64 on that device.
        scheduler: a key of :data:`models.diffusion.solvers.SOLVERS`.
        steps: of the solver.

    Returns:
        uint8, shape (B, S, S), on that device.
    """
    choice = get_solver(scheduler)
    path = make_path(model.schedule, steps, even_flow=choice.even_flow)
    kind, shape = str(model.schedule["prediction_type"]), model.working_shape
    dtype = next(iter(model.denoiser.parameters()), latents).dtype
    exact = model.context(latents)
    z, context = latents.to(dtype), exact.to(dtype)

    def denoise(x: Tensor, i: int) -> Split:
        timesteps = torch.full((len(x),), path.timesteps[i], dtype=torch.int64, device=x.device)
        noisy = x.to(dtype, memory_format=torch.channels_last)
        predicted = model.denoise(model.denoiser, noisy, timesteps, z, context)
        return split(predicted.float(), x, path.alpha[i], path.sigma[i], kind)

    start = subject_noise(seeds, "image-noise", shape)
    working = choice.solve(start, path, denoise, lambda i: subject_noise(seeds, f"image-noise after step {i}", shape))
    return as_grey_levels(model.to_images(working, exact))


def sample(
    model: DiffusionModel, latents: Tensor, seeds: NDArray[np.int64], *, scheduler: str, steps: int
) -> NDArray[np.uint8]:
    """:func:`draw_images`, waited for: uint8 (B, S, S) in host memory."""
    on_device = torch.from_numpy(np.asarray(seeds, np.int64)).to(latents.device)
    return np.asarray(draw_images(model, latents, on_device, scheduler=scheduler, steps=steps).cpu().numpy())
