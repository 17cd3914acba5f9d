"""A few-step student of a trained diffusion model, by consistency distillation (Song et al. 2023).

From any noisy tensor, the student predicts where the teacher's trajectory from it ends. It is trained to agree with
itself one step of the teacher later, and with the teacher at the last step. It starts from the teacher's weights and
has the same architecture.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import SampleSchedule, X0Eps, make_sample_schedule, to_x0_eps
from image_longitudinal.models.diffusion.train import sample_latents
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.training.checkpoints import History
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.vae.augmentation import augmented_batch
from image_longitudinal.models.vae.network import VAE


def train_student(
    model: DiffusionModel,
    vae: VAE,
    images: ImageRows,
    config: DistillationConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[nn.Module, History]:
    """Train a student of ``model.denoiser`` on uint8 images (n, S, S); ``model`` is not changed.

    Args:
        model: the teacher, not prepared for sampling.
        vae: whose posterior conditions the images.
        images: training images at ``model.image_size``.
        config: ``student_steps`` of training, ``teacher_steps`` and the rest.
        seed, checkpoint, device, report: see :func:`models.diffusion.train.train_diffusion`.

    Returns:
        The network, to be used with the solver ``student``, and the history of its loss.
    """
    where = default_device(device)
    model.to(where).eval()
    vae.to(where).eval()
    teacher, student = model.denoiser.requires_grad_(False), copy.deepcopy(model.denoiser).requires_grad_(True)
    schedule = make_sample_schedule(model.schedule, config.teacher_steps)

    def loss(network: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        with torch.no_grad():
            batch, generator = augmented_batch(images, config.batch_size, seed, "student", step, device)
            latents = sample_latents(vae, batch, generator)
            working = model.to_working(batch, latents)
        return {"loss": consistency_loss(model, network, teacher, schedule, working, latents, generator)}

    settings = LoopSettings.of(config, device, steps=config.student_steps, cosine_decay=True)
    return train("student", student, loss, settings, checkpoint, report)


def consistency_loss(
    model: DiffusionModel,
    student: nn.Module,
    teacher: nn.Module,
    schedule: SampleSchedule,
    working: Tensor,
    latents: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean pseudo-Huber distance between the student's x0 at one timestep and its x0 one teacher step later: a scalar.

    The later x0 is held fixed; it comes from the student's current weights (Song & Dhariwal 2024 found no benefit in
    averaged ones). At the last timestep it is the teacher's, which anchors all others.

    Args:
        model: gives context, prediction type and the call convention.
        student, teacher: networks of the same architecture.
        schedule: the teacher's timesteps; each example gets the noise of a random one.
        working: clean working tensors (B, C, h, w) of training images.
        latents: their conditioning vectors, (B, D).
        generator: on the CPU; source of timesteps and noise.
    """
    index = torch.randint(0, schedule.steps, (len(working),), generator=generator)
    noise = torch.randn(working.shape, generator=generator).to(working.device)
    alpha, sigma = (_at(values, index, working) for values in (schedule.alpha, schedule.sigma))
    next_alpha, next_sigma = (_at(values, index + 1, working) for values in (schedule.alpha, schedule.sigma))
    last = (index + 1 == schedule.steps).to(working.device)
    timesteps = torch.tensor(schedule.timesteps, device=working.device)
    next_index = (index + 1).clamp(max=schedule.steps - 1).to(working.device)
    index = index.to(working.device)
    noisy = alpha * working + sigma * noise
    with torch.no_grad():
        context = model.context(latents)

    def predict(network: nn.Module, x: Tensor, t: Tensor, a: Tensor, s: Tensor) -> X0Eps:
        prediction = model.denoise(network, x, t, latents, context).float()
        return to_x0_eps(prediction, x, a, s, str(model.schedule["prediction_type"]))

    with torch.no_grad():
        taught = predict(teacher, noisy, timesteps[index], alpha, sigma)
        stepped = next_alpha * taught.x0 + next_sigma * taught.eps  # one step of ddim
        later = predict(student, stepped, timesteps[next_index], next_alpha, next_sigma).x0
        target = torch.where(last[:, None, None, None], taught.x0, later)
    predicted = predict(student, noisy, timesteps[index], alpha, sigma).x0
    scale = 0.00054 * float(np.sqrt(working[0].numel()))  # Song & Dhariwal 2024
    squared = (predicted - target).square().sum((1, 2, 3))
    return ((squared + scale**2).sqrt() - scale).mean()


def _at(values: tuple[float, ...], index: Tensor, like: Tensor) -> Tensor:
    """Values at ``index`` (B,), shaped (B, 1, 1, 1) to multiply images."""
    return torch.tensor(values, dtype=like.dtype)[index].to(like.device)[:, None, None, None]
