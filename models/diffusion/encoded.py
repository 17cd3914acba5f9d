"""Training data of latent diffusion, encoded once ahead of training: no autoencoder and no VAE runs in its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.files import replacing
from image_longitudinal.models.diffusion.interface import DiffusionModel
from image_longitudinal.models.training.loop import step_generator
from image_longitudinal.models.training.tensors import ImageRows, to_unit
from image_longitudinal.models.vae.augment import augment
from image_longitudinal.models.vae.network import VAE

BATCH = 64


@dataclass(frozen=True)
class EncodedImages:
    """``variants`` augmented views of every training image: working tensors and the posterior of z.

    ``working`` float16 (n, C, h, w), ``posterior`` float32 (n, 2, D): mean and log-variance in raw coordinates. Both
    are mapped from disk.
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
def encode_ahead(
    model: DiffusionModel, vae: VAE, images: ImageRows, variants: int, seed: int, place: Path
) -> EncodedImages:
    """Encode every image ``variants`` times, each time mirrored and cropped otherwise; what lies at ``place`` is used.

    Args:
        model: whose working tensors do not depend on z (``encodes_ahead``).
        vae: gives the posterior of z.
        images: uint8 (n, S, S).
        variants: views per image.
        seed: of the augmentation.
        place: of the files ``<place>.working.npy`` and ``<place>.posterior.npy``.
    """
    paths = [place.with_name(f"{place.name}.{name}.npy") for name in ("working", "posterior")]
    if not all(path.exists() for path in paths):
        where, n = next(vae.parameters()).device, len(images) * variants
        with replacing(paths[0]) as new_working, replacing(paths[1]) as new_posterior:
            working = np.lib.format.open_memmap(new_working, "w+", np.float16, (n, *model.working_shape))
            posterior = np.lib.format.open_memmap(new_posterior, "w+", np.float32, (n, 2, vae.latent_dim))
            for start in range(0, n, BATCH):
                rows = np.arange(start, min(start + BATCH, n))
                batch = augment(to_unit(images[rows % len(images)], where), step_generator(seed, "encoded", start))
                working[rows] = model.to_working(batch, batch.new_zeros(len(batch), vae.latent_dim)).cpu().numpy()
                mean, log_variance = vae.posterior(batch)
                posterior[rows] = torch.stack([mean, log_variance], 1).cpu().numpy()
            working.flush()
            posterior.flush()
    loaded = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    return EncodedImages(*loaded)
