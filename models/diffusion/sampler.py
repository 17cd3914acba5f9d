"""Sampling: from per-subject noise to images, one batch at a time, by any of :mod:`models.diffusion.solvers`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import X0Eps, make_sample_schedule, to_x0_eps
from image_longitudinal.models.diffusion.solvers import get_solver
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.noise import subject_noise


@torch.no_grad()
def sample_on_device(model: DiffusionModel, latents: Tensor, seeds: Tensor, *, scheduler: str, steps: int) -> Tensor:
    """Sample one image per latent vector, without waiting for the device.

    Every random number of an image comes from its own seed, so neither the batch nor the number of devices changes it
    (beyond the device's rounding). The network computes in the type of its weights, the solver in float32.

    Args:
        model: the trained diffusion model, in evaluation mode, on its device.
        latents: (B, D) float32 on that device.
        seeds: one per image, (B,) int64 on that device.
        scheduler: a key of :data:`models.diffusion.solvers.SOLVERS`.
        steps: of the solver.

    Returns:
        uint8, shape (B, S, S), on that device.
    """
    solver = get_solver(scheduler)
    schedule = make_sample_schedule(model.schedule, steps, uniform_flow_time=solver.uniform_flow_time)
    prediction_type, shape = str(model.schedule["prediction_type"]), model.working_shape
    dtype = next(iter(model.denoiser.parameters()), latents).dtype
    exact = model.context(latents)
    z, context = latents.to(dtype), exact.to(dtype)

    def denoise(x: Tensor, i: int) -> X0Eps:
        timesteps = torch.full((len(x),), schedule.timesteps[i], dtype=torch.int64, device=x.device)
        noisy = x.to(dtype, memory_format=torch.channels_last)
        predicted = model.denoise(model.denoiser, noisy, timesteps, z, context).float()
        return to_x0_eps(predicted, x, schedule.alpha[i], schedule.sigma[i], prediction_type)

    def step_noise(i: int) -> Tensor:
        return subject_noise(seeds, f"image-noise after step {i}", shape)

    working = solver.solve(subject_noise(seeds, "image-noise", shape), schedule, denoise, step_noise)
    return as_grey_levels(model.to_images(working, exact))


def sample(
    model: DiffusionModel, latents: Tensor, seeds: NDArray[np.int64], *, scheduler: str, steps: int
) -> NDArray[np.uint8]:
    """:func:`sample_on_device`, copied to host memory: uint8 (B, S, S)."""
    on_device = torch.from_numpy(np.asarray(seeds, np.int64)).to(latents.device)
    return np.asarray(sample_on_device(model, latents, on_device, scheduler=scheduler, steps=steps).cpu().numpy())
