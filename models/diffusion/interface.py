"""What a diffusion model must offer to the loss and the sampler, whatever it is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


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
        network.compile(dynamic=False)
