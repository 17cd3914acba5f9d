"""Training data of latent diffusion, encoded once before training: its steps run no autoencoder and no VAE."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.files import replacing
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.augmentation import augment
from image_longitudinal.models.vae.network import VAE

BATCH = 64


@dataclass(frozen=True)
class EncodedImages:
    """``variants`` augmented views of every training image: working tensors and the posterior of z.

    ``working`` float16 (n, C, h, w), ``posterior`` float32 (n, 2, D): mean and log-variance in raw coordinates. Both
    are memory-mapped.
    """

    working: NDArray[np.float16]
    posterior: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.working)

    def batch(
        self, rows: NDArray[np.int64], vae: VAE, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Working tensors (B, C, h, w) float32, and samples of z (B, D) from the posteriors, standardised."""
        mean, log_variance = torch.from_numpy(self.posterior[rows]).unbind(1)
        raw = mean + torch.randn(mean.shape, generator=generator) * (0.5 * log_variance).exp()
        return torch.from_numpy(self.working[rows]).float().to(device), vae.standardised(raw.to(device))


@torch.no_grad()
def encode_images(
    model: DiffusionModel, vae: VAE, images: ImageRows, variants: int, seed: int, path: Path
) -> EncodedImages:
    """Encode ``variants`` augmented views of every image, or open the files if they exist.

    Args:
        model: whose working tensors do not depend on z (``can_encode_ahead``).
        vae: gives the posterior of z.
        images: uint8 (n, S, S).
        variants: views per image.
        seed: of the augmentation.
        path: of the files ``<path>.working.npy`` and ``<path>.posterior.npy``.
    """
    paths = [path.with_name(f"{path.name}.{name}.npy") for name in ("working", "posterior")]
    if not all(file.exists() for file in paths):
        device, n = next(vae.parameters()).device, len(images) * variants
        with ExitStack() as stack:
            new = [stack.enter_context(replacing(file)) for file in paths]
            working = np.lib.format.open_memmap(new[0], "w+", np.float16, (n, *model.working_shape))
            posterior = np.lib.format.open_memmap(new[1], "w+", np.float32, (n, 2, vae.latent_dim))
            for start in range(0, n, BATCH):
                rows = np.arange(start, min(start + BATCH, n))
                batch = augment(to_unit(images[rows % len(images)], device), step_generator(seed, "encoded", start))
                working[rows] = model.to_working(batch, batch.new_zeros(len(batch), vae.latent_dim)).cpu().numpy()
                posterior[rows] = torch.stack(vae.posterior(batch), 1).cpu().numpy()
            working.flush()
            posterior.flush()
    return EncodedImages(*(np.load(file, mmap_mode="r", allow_pickle=False) for file in paths))
