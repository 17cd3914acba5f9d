"""Distillation of a trained diffusion model: a few-step student, and a light decoder for Stable Diffusion.

The student (consistency distillation, Song et al. 2023) predicts from any noisy tensor where the teacher's trajectory
from it ends. It has the teacher's architecture and starts from its weights.

The full decoder of Stable Diffusion costs three UNet evaluations: below ten solver steps it takes most of the time. The
light one is TAESD's (AutoencoderTiny in diffusers) with one grey channel, a twentieth of the work.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import SampleSchedule, X0Eps, make_sample_schedule, to_x0_eps
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.diffusion.train import sample_latents
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.step_random import seeded_weights
from image_longitudinal.models.vae.augmentation import augmented_batch
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.loss import PIXEL_WEIGHT, structural_distance


def train_student(
    model: DiffusionModel,
    vae: LatentModel,
    images: ImageRows,
    config: DistillationConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[nn.Module, History]:
    """Train a student of ``model.denoiser`` on uint8 images (n, S, S); ``model``, the teacher, is not changed.

    The VAE's posterior conditions the images, of side ``model.image_size``. The other arguments are those of
    :func:`models.diffusion.train.train_diffusion`. Returns the network, to be used with the solver ``student``, and
    the history of its loss.
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
        model: gives context, prediction type and the call convention of student and teacher.
        schedule: the teacher's timesteps; each example gets the noise of a random one.
        working, latents: clean working tensors (B, C, h, w) of training images, and their latents (B, D).
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


class LightDecoder(nn.Module):
    """Scaled latents (B, C, h, w) → grey images (B, 1, h·2ⁿ, w·2ⁿ), values about 0 to 1, by n ``doublings``.

    ``width`` is the channel count of every level.
    """

    def __init__(self, latent_channels: int, doublings: int, width: int) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny  # here: diffusers takes seconds to import

        super().__init__()
        self.network = DecoderTiny(
            in_channels=latent_channels, out_channels=1, num_blocks=(*(3,) * doublings, 1),
            block_out_channels=(width,) * (doublings + 1), upsampling_scaling_factor=2, act_fn="relu",
            upsample_fn="nearest",
        )  # fmt: skip

    def forward(self, working: Tensor) -> Tensor:
        """See the class."""
        return (self.network(working) + 1) / 2


def build_light_decoder(model: StableDiffusion, width: int, seed: int) -> LightDecoder:
    """A light decoder that fits a model, with initial weights that depend on the seed alone."""
    doublings = len(model.autoencoder.config.block_out_channels) - 1
    with seeded_weights(seed, "light-decoder-weights"):
        return LightDecoder(model.working_shape[0], doublings, width)


def train_light_decoder(
    model: StableDiffusion,
    images: ImageRows,
    config: DistillationConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
) -> tuple[LightDecoder, History]:
    """Train a light decoder against the model's full one, on the latents of uint8 images (n, S, S) of its size.

    Loss: squared error and structural distance (see :mod:`models.vae.loss`) between the two decoders' images. The other
    arguments are those of :func:`models.diffusion.train.train_diffusion`.
    """
    where = default_device(device)
    model.to(where).eval()

    def loss(network: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        with torch.no_grad():
            batch, _ = augmented_batch(images, config.batch_size, seed, "light-decoder", step, device)
            working = model.to_working(batch, torch.empty(0))
            target = model.decode_full(working)
        output = network(working).float()
        squared = mse_loss(output, target)
        return {"loss": PIXEL_WEIGHT * squared + structural_distance(output.clamp(0, 1), target), "mse": squared}

    settings = LoopSettings.of(config, device, steps=config.decoder_steps, cosine_decay=True)
    decoder = build_light_decoder(model, config.decoder_width, seed)
    return train("light decoder", decoder, loss, settings, checkpoint, report)
