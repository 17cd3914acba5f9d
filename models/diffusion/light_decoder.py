"""A light decoder in place of the autoencoder's: latents → grey images, trained to do as the full one does.

The full decoder of Stable Diffusion costs three times a pass of its UNet: below ten solver steps it is what takes the
time. This one is the decoder of TAESD (AutoencoderTiny in diffusers) with one grey channel, a twentieth of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.core.random import stream_key
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.diffusion.student import loop_settings
from image_longitudinal.models.training.loop import History, TrainingProgress, batch_indices, step_generator, train
from image_longitudinal.models.training.tensors import ImageRows, default_device, to_unit
from image_longitudinal.models.vae.augment import augment
from image_longitudinal.models.vae.loss import PIXEL_WEIGHT, structural_distance


class LightDecoder(nn.Module):
    """Scaled latents (B, C, h, w) → grey images (B, 1, h·2ⁿ, w·2ⁿ), values about 0 to 1.

    Args:
        latent_channels: C.
        doublings: n, as many as the autoencoder's own decoder has.
        width: channels of every level.
    """

    def __init__(self, latent_channels: int, doublings: int, width: int) -> None:
        from diffusers.models.autoencoders.vae import DecoderTiny  # here: diffusers takes seconds to import

        super().__init__()
        self.network = DecoderTiny(
            in_channels=latent_channels,
            out_channels=1,
            num_blocks=(*(3,) * doublings, 1),
            block_out_channels=(width,) * (doublings + 1),
            upsampling_scaling_factor=2,
            act_fn="relu",
            upsample_fn="nearest",
        )

    def forward(self, working: Tensor) -> Tensor:
        """See the class."""
        return (self.network(working) + 1) / 2


def build_light_decoder(model: StableDiffusion, width: int, seed: int) -> LightDecoder:
    """A light decoder that fits a model, with initial weights that depend on the seed alone."""
    doublings = len(model.autoencoder.config.block_out_channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "light-decoder-weights") >> 1)
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
    """Train a light decoder against the full one, on the latents of uint8 images (n, S, S).

    Loss: squared error and structural distance (see :mod:`models.vae.loss`) between the two decoders' images.

    Args:
        model: whose autoencoder encodes the images and is the teacher.
        images: training images at ``model.image_size``.
        config: ``decoder_steps`` of training, ``decoder_width`` and the rest.
        seed: of initial weights, order and augmentation.
        checkpoint: file to resume from and save to.
        device: where the frozen parts go.
        report: told of progress.
    """
    where = default_device(device)
    model.to(where).eval()

    def loss(network: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        draws = step_generator(seed, "light-decoder", step)
        chosen = images[batch_indices(len(images), config.batch_size, seed, "light-decoder", step)]
        with torch.no_grad():
            working = model.to_working(augment(to_unit(chosen, device), draws), torch.empty(0))
            target = model.decode_fully(working)
        made = network(working).float()
        squared = mse_loss(made, target)
        return {"loss": PIXEL_WEIGHT * squared + structural_distance(made.clamp(0, 1), target), "mse": squared}

    settings = loop_settings(config, config.decoder_steps, seed, device)
    decoder = build_light_decoder(model, config.decoder_width, seed)
    trained, history = train("light decoder", decoder, loss, settings, checkpoint, report)
    assert isinstance(trained, LightDecoder)
    return trained, history
