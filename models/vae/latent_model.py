"""The interface of every model between images and their latent vectors, whatever it is built from."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class LatentModel(nn.Module, ABC):
    """Images ↔ standardised latents z (D): over real images they are distributed like N(0, I)."""

    image_size: int
    latent_dim: int
    views_are_crops: bool  # whether training and evaluation views show part of an image's rows
    rotatable: bool  # whether any orthogonal axes serve as dimensions of z; otherwise they are ordered by construction

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.buffers())).device

    @abstractmethod
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents (B, D) of images (B, 1, H, W) of any size, values 0 to 1; a posterior's sample when given noise."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, of latents (B, D)."""

    def view(self, images: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, framed as the model's own are."""
        return images

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Numbers (B, F) that describe images (B, 1, S, S), values 0 to 1: a space to compare sets of images in."""

    def rotate(self, axes: Tensor) -> None:
        """Make the columns of ``axes`` (D, D), orthogonal, the new dimensions of latents; only if ``rotatable``."""
        # Callers ask ``rotatable`` first. A model whose dimensions have a fixed order has nothing to add here.
        raise NotImplementedError(f"the dimensions of {type(self).__name__} are fixed")
