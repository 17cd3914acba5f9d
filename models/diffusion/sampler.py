"""Sampling: from per-subject noise to images with any of diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from torch import Tensor

from core.errors import ConfigError
from core.random import seeded_normals
from models.diffusion.interface import DiffusionModel
from models.tensors import to_grey_levels

SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,  # Song et al. 2021, deterministic
    "ddpm": DDPMScheduler,  # Ho et al. 2020, the original's; draws noise at every step
    "dpm++": DPMSolverMultistepScheduler,  # Lu et al. 2022, second order, deterministic
    "euler": EulerDiscreteScheduler,  # Karras et al. 2022, algorithm 1
    "unipc": UniPCMultistepScheduler,  # Zhao et al. 2023, predictor-corrector
}


def make_scheduler(name: str, schedule: dict[str, Any], steps: int) -> Any:
    """A diffusers scheduler for ``steps`` steps on the noise schedule that a model was trained with.

    Raises:
        ConfigError: no scheduler has that name, or the noise schedule has fewer steps.
    """
    if name not in SCHEDULERS:
        raise ConfigError("generator.scheduler is unknown", expected=f"one of {', '.join(SCHEDULERS)}", got=name)
    trained_steps = int(schedule["num_train_timesteps"])
    if steps > trained_steps:
        raise ConfigError("generator.steps is impossible", expected=f"at most {trained_steps}", got=steps)
    # Steps end at the noisiest timestep, as training's does; clipping is for images, not for working tensors.
    options = {"timestep_spacing": "trailing"} | ({"clip_sample": False} if name in ("ddim", "ddpm") else {})
    scheduler = SCHEDULERS[name].from_config({**schedule, **options})
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def sample(
    model: DiffusionModel, latents: Tensor, seeds: NDArray[np.int64], *, scheduler: str, steps: int
) -> NDArray[np.uint8]:
    """Draw one image per latent vector.

    Every random number of an image comes from its own seed, so neither the batch nor the device count changes it
    (beyond the device's rounding).

    Args:
        model: the trained diffusion model, in evaluation mode, on its device.
        latents: (B, D) float32 on that device.
        seeds: one per image, (B,) int64.
        scheduler: a key of :data:`SCHEDULERS`.
        steps: denoising steps.

    Returns:
        uint8, shape (B, S, S).
    """
    solver = make_scheduler(scheduler, model.schedule, steps)
    working = _noise(seeds, "image-noise", model.working_shape, latents) * float(solver.init_noise_sigma)
    context = model.context(latents)
    # Schedulers that draw noise of their own take one generator per image, seeded like the rest.
    own = [torch.Generator().manual_seed(int(seed)) for seed in seeds] if scheduler == "ddpm" else None
    options = {"generator": own} if own else {}
    for timestep in solver.timesteps:
        scaled = solver.scale_model_input(working, timestep)
        batch = timestep.long().expand(len(latents)).to(latents.device)  # Euler's are whole numbers kept as floats
        predicted = model.denoise(model.denoiser, scaled, batch, latents, context)
        working = solver.step(predicted, timestep, working, return_dict=False, **options)[0]
    return to_grey_levels(model.to_images(working, latents))


def _noise(seeds: NDArray[np.int64], stage: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    draws = seeded_normals(seeds, stage, int(np.prod(shape))).astype(np.float32)
    return torch.from_numpy(draws).reshape(len(seeds), *shape).to(like)
