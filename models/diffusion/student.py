"""A few-step student of a trained diffusion model, by consistency distillation (Song et al. 2023).

The student says of any noisy tensor where the teacher's way from it ends. It learns so by agreeing with itself one step
of the teacher further on, and with the teacher at the last one. It starts from the teacher's weights and has its shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.diffusion.solvers import NoisePath, Split, make_path, split
from image_longitudinal.models.diffusion.train import posterior_sample
from image_longitudinal.models.training.loop import (
    History,
    LoopSettings,
    TrainingProgress,
    batch_indices,
    step_generator,
    train,
)
from image_longitudinal.models.training.tensors import ImageRows, default_device, to_unit
from image_longitudinal.models.vae.augment import augment
from image_longitudinal.models.vae.network import VAE


def distill(
    model: DiffusionModel,
    vae: VAE,
    images: ImageRows,
    config: DistillationConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[nn.Module, History]:
    """Train a student of ``model.denoiser`` on uint8 images (n, S, S); ``model`` stays as it is.

    Args:
        model: the teacher with all around it, not made ready for sampling.
        vae: whose posterior the images are conditioned on.
        images: training images at ``model.image_size``.
        config: ``student_steps`` of training, ``teacher_steps`` and the rest.
        seed: of order, augmentation, timesteps and noise.
        checkpoint: file to resume from and save to.
        device: where the frozen parts go.
        report: told of progress.

    Returns:
        The student, to be sampled from with the solver ``student``, and the history of its loss.
    """
    where = default_device(device)
    model.to(where).eval()
    vae.to(where).eval()
    teacher, student = model.denoiser.requires_grad_(False), copy.deepcopy(model.denoiser).requires_grad_(True)
    path = make_path(model.schedule, config.teacher_steps)

    def loss(network: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        draws = step_generator(seed, "student", step)
        chosen = images[batch_indices(len(images), config.batch_size, seed, "student", step)]
        with torch.no_grad():
            batch = augment(to_unit(chosen, device), draws)
            latents = posterior_sample(vae, batch, draws)
            working = model.to_working(batch, latents)
        return {"loss": consistency_loss(model, network, teacher, path, working, latents, draws)}

    settings = loop_settings(config, config.student_steps, seed, device)
    return train("student", student, loss, settings, checkpoint, report)


def loop_settings(config: DistillationConfig, steps: int, seed: int, device: str) -> LoopSettings:
    """How the networks of a distillation are trained, for ``steps`` steps."""
    return LoopSettings(
        steps=steps,
        learning_rate=config.learning_rate,
        seed=seed,
        ema_decay=config.ema_decay,
        mixed_precision=config.mixed_precision,
        cosine_decay=True,
        device=device,
    )


def consistency_loss(
    model: DiffusionModel,
    student: nn.Module,
    teacher: nn.Module,
    path: NoisePath,
    working: Tensor,
    latents: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean pseudo-Huber distance between the student's answer here and one step of the teacher's further on: a scalar.

    The further answer is the student's own, held fixed (Song & Dhariwal 2024 found no use for an averaged one); at the
    end of the path it is the teacher's, which anchors all others.

    Args:
        model: gives context, prediction type and the call convention.
        student, teacher: networks of the same shape.
        path: the teacher's timesteps; each example is noised to a random one.
        working: clean working tensors (B, C, h, w) of training images.
        latents: what they are conditioned on, (B, D).
        generator: on the CPU; source of timesteps and noise.
    """
    here = torch.randint(0, path.steps, (len(working),), generator=generator)
    noise = torch.randn(working.shape, generator=generator).to(working.device)
    alpha, sigma = (_column(values, here, working) for values in (path.alpha, path.sigma))
    next_alpha, next_sigma = (_column(values, here + 1, working) for values in (path.alpha, path.sigma))
    last = (here + 1 == path.steps).to(working.device)
    times = torch.tensor(path.timesteps, device=working.device)
    further = (here + 1).clamp(max=path.steps - 1).to(working.device)
    noisy = alpha * working + sigma * noise
    with torch.no_grad():
        context = model.context(latents)

    def answer(network: nn.Module, x: Tensor, t: Tensor, a: Tensor, s: Tensor) -> Split:
        said = model.denoise(network, x, t, latents, context).float()
        return split(said, x, a, s, str(model.schedule["prediction_type"]))

    with torch.no_grad():
        taught = answer(teacher, noisy, times[here.to(working.device)], alpha, sigma)
        onward = next_alpha * taught.clean + next_sigma * taught.noise  # one step of ddim
        own = answer(student, onward, times[further], next_alpha, next_sigma).clean
        target = torch.where(last[:, None, None, None], taught.clean, own)
    given = answer(student, noisy, times[here.to(working.device)], alpha, sigma).clean
    scale = 0.00054 * float(np.sqrt(working[0].numel()))  # Song & Dhariwal 2024
    squared = (given - target).square().sum((1, 2, 3))
    return ((squared + scale**2).sqrt() - scale).mean()


def _column(values: tuple[float, ...], index: Tensor, like: Tensor) -> Tensor:
    """Values at ``index`` (B,) in a shape that multiplies images: (B, 1, 1, 1)."""
    return torch.tensor(values, dtype=like.dtype)[index].to(like.device)[:, None, None, None]
