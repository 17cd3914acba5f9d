"""Diffusion in the flattened frame: the detail that the mean image of the flattened retina lacks.

Columns are comparable there, layers lie level, and no capacity goes into moving edges. The detail has no part in the
components of the appearance, so that z is read back from a finished image however it was drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.adagn import SCHEDULES
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.flattened.retina import FlattenedRetina
from image_longitudinal.models.imaging.geometry import CURVE_TERMS, bend, flatten

if TYPE_CHECKING:
    from diffusers import UNet2DModel

GRID = 32  # side of the network's grid at every image size; blocks of pixels become channels


class FlattenedDiffusion(DiffusionModel):
    """Generates scaled residuals of flattened retinas, given their mean image.

    ``row_scale`` (2 S): what a residual is divided by in each row, in units of grey 0 to 1. ``grey`` and ``gain`` bring
    mean images to mean 0 and standard deviation 1 at the input of the network.
    """

    row_scale: Tensor
    grey: Tensor
    gain: Tensor

    def __init__(self, retina: FlattenedRetina, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.vae = retina.eval().requires_grad_(False)
        self.image_size, self.latent_dim = retina.image_size, retina.latent_dim
        self.patch = (retina.flat_rows // GRID, retina.image_size // GRID)
        self.features = self.patch[0] * self.patch[1]
        self.working_shape = (self.features, GRID, GRID)
        self.schedule = dict(SCHEDULES["velocity"])
        self.denoiser = _unet(self.working_shape, channels)
        self.register_buffer("row_scale", torch.ones(retina.flat_rows))
        self.register_buffer("grey", torch.zeros(()))
        self.register_buffer("gain", torch.ones(()))

    @torch.no_grad()
    def standardise(self, flat: Tensor) -> None:
        """Fit scales to flattened images (n, 1, 2 S, S), values 0 to 1.

        A row's scale is halfway, in logarithms, between its own and the average standard deviation: the bright retina
        keeps more weight in the loss than the dark vitreous, whose noise is seen all the same.
        """
        by_row = self.residual(flat, self.vae.mean_flat(self.vae.scores(flat))).square().mean((0, 1, 3)).sqrt()
        self.row_scale.copy_((by_row * by_row.mean()).sqrt().clamp(min=1e-6))
        self.grey.copy_(flat.mean())
        self.gain.copy_(1 / flat.std().clamp(min=1e-6))

    def residual(self, flat: Tensor, mean: Tensor) -> Tensor:
        """What flattened images (B, 1, 2 S, S) add to their mean images, beside the components."""
        return self.vae.without_components(flat - mean)

    def fold(self, residual: Tensor) -> Tensor:
        """Working tensors of residuals (B, 1, 2 S, S)."""
        return _to_patches(residual / self.row_scale[:, None], self.patch)

    def fold_mean(self, mean: Tensor) -> Tensor:
        """The network's view (B, C, 32, 32) of mean images (B, 1, 2 S, S)."""
        return _to_patches((mean - self.grey) * self.gain, self.patch)

    def context(self, latents: Tensor) -> Tensor:
        """Mean image in patches, then the four coefficients of the curve as planes: (B, C + 4, 32, 32)."""
        curves, scores = self.vae.coordinates(latents)
        return self.with_curves(self.fold_mean(self.vae.mean_flat(scores)), curves)

    def with_curves(self, mean: Tensor, curves: Tensor) -> Tensor:
        """A context of folded mean images and curves (B, 4)."""
        planes = curves.to(mean)[:, :, None, None].expand(-1, -1, *mean.shape[2:])
        return torch.cat([mean, planes], dim=1)

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        """Scaled residuals of images (B, 1, S, S), values 0 to 1, flattened by the curves of their latents."""
        curves, scores = self.vae.coordinates(latents)
        flat = flatten(images, curves, self.vae.flat_rows, self.image_size)
        return self.fold(self.residual(flat, self.vae.mean_flat(scores)))

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        """Mean image and residual, bent along the curve: (B, 1, S, S), clamped to 0 to 1."""
        mean = _from_patches(context[:, : self.features], self.patch) / self.gain + self.grey
        residual = self.vae.without_components(_from_patches(working, self.patch) * self.row_scale[:, None])
        curves = context[:, -CURVE_TERMS:, 0, 0]
        return bend(mean + residual, curves, self.image_size).clamp(0, 1)

    def rotate(self, axes: Tensor) -> None:
        """Never: the dimensions of z are ordered by construction."""
        self.vae.rotate(axes)

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The predicted velocity (B, C, 32, 32); z enters by the mean image alone."""
        inputs = torch.cat([noisy, context[:, : self.features]], dim=1)
        return network(inputs, timesteps, return_dict=False)[0]

    def frozen_state(self) -> dict[str, Tensor]:
        """Scales of residual and mean image."""
        return {name: getattr(self, name) for name in ("row_scale", "grey", "gain")}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Load the result of :meth:`frozen_state`."""
        for name, values in state.items():
            getattr(self, name).copy_(values)


def _to_patches(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images (B, 1, H, W) → blocks of (p, q) pixels as channels (B, p q, H/p, W/q)."""
    blocks = images[:, 0].unflatten(2, (-1, patch[1])).unflatten(1, (-1, patch[0]))
    return blocks.permute(0, 2, 4, 1, 3).flatten(1, 2).contiguous()


def _from_patches(patches: Tensor, patch: tuple[int, int]) -> Tensor:
    """The inverse of :func:`_to_patches`."""
    blocks = patches.unflatten(1, patch).permute(0, 3, 1, 4, 2)
    return blocks.flatten(3, 4).flatten(1, 2)[:, None]


def _unet(working_shape: tuple[int, int, int], channels: tuple[int, ...]) -> UNet2DModel:
    """A UNet over working tensor and mean image, attention at its coarsest grid; its last layer starts at 0."""
    from diffusers import UNet2DModel  # here: diffusers takes seconds to import

    levels = len(channels)
    unet = UNet2DModel(
        sample_size=working_shape[1], in_channels=2 * working_shape[0], out_channels=working_shape[0],
        layers_per_block=1, block_out_channels=channels, norm_num_groups=16,
        down_block_types=(*("DownBlock2D",) * (levels - 1), "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *("UpBlock2D",) * (levels - 1)),
    )  # fmt: skip
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet
