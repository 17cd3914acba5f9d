"""The interface of a diffusion model to loss and sampler, whatever it is built from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_PIXELS = 8 * 512**2  # per call of an autoencoder: enough to keep a large GPU busy


class DiffusionModel(nn.Module, ABC):
    """A denoiser over *working tensors* (scaled residuals, or an autoencoder's latents) conditioned on z (B, D)."""

    image_size: int
    latent_dim: int
    working_shape: tuple[int, int, int]
    schedule: dict[str, Any]  # keyword arguments of a diffusers scheduler
    denoiser: nn.Module  # the part that is trained
    can_encode_ahead = False  # whether working tensors depend on the image alone, so that training can precompute them

    @abstractmethod
    def context(self, latents: Tensor) -> Tensor:
        """What depends on z (B, D) alone and is computed once per image."""

    @abstractmethod
    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1 → working tensors (B, *working_shape)."""

    @abstractmethod
    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Working tensors (B, *working_shape) and their context in float32 → images (B, 1, S, S), values 0 to 1."""

    @abstractmethod
    def rotate(self, axes: Tensor) -> None:
        """Make the columns of ``axes`` (D, D), orthogonal, the new dimensions of z, by rotating trained weights.

        The VAE of the model must be rotated alike (:meth:`models.vae.network.VAE.rotate`).
        """

    @abstractmethod
    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The prediction of the schedule's type, (B, *working_shape), at integer timesteps (B,)."""

    def error_weight(self, timesteps: Tensor) -> Tensor | None:
        """Weights of the prediction's squared errors in training, (B, C, h, w) or less by broadcasting; None for 1."""
        return None

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the entries of working tensors, as far as the model knows it; broadcasts to them."""
        return torch.ones(())  # a number goes with tensors of every device

    def frozen_state(self) -> dict[str, Tensor]:
        """Tensors beside denoiser and VAE that are stored with the model."""
        return {}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Load the result of :meth:`frozen_state`."""

    def borrowed_state(self) -> dict[str, Tensor]:
        """Tensors of pretrained parts that are not stored with the model but loaded again from their source."""
        return {}

    def for_sampling(self, dtype: torch.dtype, compiled: bool = False) -> None:
        """Prepare the model for sampling; it cannot be trained afterwards.

        The network then computes in ``dtype``, with channels-last memory. If ``compiled``, torch.compile generates
        kernels for the first batch's shape (a minute or two).
        """
        self.eval().requires_grad_(False)
        prepare_network(self.denoiser, dtype, compiled)


def prepare_network(network: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
    """Convert one network in place for :meth:`DiffusionModel.for_sampling`."""
    # torch's own method: diffusers' warns of modules to be kept in float32 even if there are none.
    nn.Module.to(network, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        # Otherwise each process times several forms of a reduction and takes the fastest: the last bits would differ.
        network.compile(dynamic=False, options={"deterministic": True})


def in_chunks(function: Callable[[Tensor], Tensor], batch: Tensor, image_size: int) -> Tensor:
    """Encode or decode a batch (B, ...) in equal chunks of at most ``CHUNK_PIXELS`` pixels.

    At once, 64 images at 512x512 would take tens of GB at full resolution. Also, beyond 2**31 elements in channels
    last, nearest-neighbour upsampling silently returns zeros on CUDA (pytorch issue 141831).

    Each row of the function's result must depend on the same row alone. ``image_size`` is the side in pixels of the
    images that are encoded or decoded.
    """
    most = max(CHUNK_PIXELS // image_size**2, 1)
    count = next(size for size in range(max(min(most, len(batch)), 1), 0, -1) if len(batch) % size == 0)
    return torch.cat([function(chunk) for chunk in batch.split(count)])
