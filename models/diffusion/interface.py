"""What a diffusion model must offer to the loss and the sampler, whatever it is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PART_PIXELS = 8 * 512**2  # that an autoencoder is given at a time: enough to keep a large GPU busy


class DiffusionModel(nn.Module, ABC):
    """A denoiser over *working tensors* (scaled residuals, or an autoencoder's latents) conditioned on z (B, D)."""

    image_size: int
    latent_dim: int
    working_shape: tuple[int, int, int]
    schedule: dict[str, Any]  # keyword arguments of a diffusers scheduler
    denoiser: nn.Module  # the part that is trained
    encodes_ahead = False  # whether working tensors depend on the image alone, and may be made before training

    @abstractmethod
    def context(self, latents: Tensor) -> Tensor:
        """What depends on z alone and is computed once per image."""

    @abstractmethod
    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1 → working tensors (B, *working_shape)."""

    @abstractmethod
    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Working tensors (B, *working_shape) and their context in float32 → images (B, 1, S, S), values 0 to 1."""

    @abstractmethod
    def rotate(self, axes: Tensor) -> None:
        """Take the columns of ``axes`` (D, D), orthogonal, as the new entries of z, by turning the trained weights.

        The VAE that the model was trained with has to be turned alike (:meth:`models.vae.network.VAE.rotate`).
        """

    @abstractmethod
    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        """The prediction that the schedule names, (B, *working_shape), at integer timesteps (B,)."""

    def frozen_state(self) -> dict[str, Tensor]:
        """What belongs to the model beside denoiser and VAE, and is stored with it."""
        return {}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`frozen_state` gave."""

    def borrowed_state(self) -> dict[str, Tensor]:
        """What belongs to the model and is not stored with it: it is loaded again from the place it came from."""
        return {}

    def for_sampling(self, dtype: torch.dtype, compiled: bool = False) -> None:
        """Make ready to be sampled from, and no longer trained.

        Args:
            dtype: of the network's weights and arithmetic; its convolutions go channels last.
            compiled: have torch.compile write the network's kernels for the first batch's shape (a minute or two).
        """
        self.eval().requires_grad_(False)
        ready(self.denoiser, dtype, compiled)


def ready(network: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
    """Bring one network into the form of :meth:`DiffusionModel.for_sampling`, in place."""
    # torch's own method: diffusers' warns of modules to be kept in float32, though it finds none.
    nn.Module.to(network, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        # Otherwise each process times several forms of a reduction and takes the fastest there: other last bits.
        network.compile(dynamic=False, options={"deterministic": True})


def in_parts(function: Callable[[Tensor], Tensor], batch: Tensor, image_size: int) -> Tensor:
    """An autoencoder's half, of a batch (B, ...) of latents or images, in equal parts of ``PART_PIXELS`` or less.

    In one, 64 images at 512x512 would take tens of GB at full resolution. And past 2**31 entries in channels last,
    upsampling to the nearest silently gives zeros on CUDA (pytorch issue 141831).

    Args:
        function: (b, ...) → (b, ...); each row of its result depends on the same row alone.
        batch: its argument.
        image_size: side in pixels of the images on either end.
    """
    most = max(PART_PIXELS // image_size**2, 1)
    count = next(size for size in range(max(min(most, len(batch)), 1), 0, -1) if len(batch) % size == 0)
    return torch.cat([function(part) for part in batch.split(count)])
