"""A light decoder to replace the autoencoder's: latents → grey images, trained to imitate the full one.

The full decoder of Stable Diffusion costs three UNet evaluations: below ten solver steps it takes most of the time.
This one is the decoder of TAESD (AutoencoderTiny in diffusers) with one grey channel, a twentieth of the work.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows
from image_longitudinal.models.training.checkpoints import History
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.step_random import seeded_weights
from image_longitudinal.models.vae.augmentation import augmented_batch
from image_longitudinal.models.vae.loss import PIXEL_WEIGHT, structural_distance


class LightDecoder(nn.Module):
    """Scaled latents (B, C, h, w) → grey images (B, 1, h·2ⁿ, w·2ⁿ), values about 0 to 1.

    Args:
        latent_channels: C.
        doublings: n, as in the autoencoder's decoder.
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
    """Train a light decoder against the full one, on the latents of uint8 images (n, S, S).

    Loss: squared error and structural distance (see :mod:`models.vae.loss`) between the two decoders' images.

    Args:
        model: its autoencoder encodes the images and is the teacher.
        images: training images at ``model.image_size``.
        config: ``decoder_steps`` of training, ``decoder_width`` and the rest.
        seed, checkpoint, device, report: see :func:`models.diffusion.train.train_diffusion`.
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
    trained, history = train("light decoder", decoder, loss, settings, checkpoint, report)
    assert isinstance(trained, LightDecoder)
    return trained, history
