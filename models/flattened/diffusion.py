"""Diffusion in the flattened frame: the detail that the mean image of the flattened retina lacks.

Columns are comparable there, layers lie level, and no capacity goes into moving edges. The detail has no part in the
components of the appearance, so that z is read back from a finished image however it was drawn.

The network works on the cosine coefficients of blocks of pixels, 32x32 blocks at every image size. Fine coefficients
are weak: at most noise levels the best guess of them is nearly nothing, and a network with few channels spends them on
passing noise through. So the network only corrects the best linear guess, that of each coefficient alone (the
preconditioning of Karras et al. 2022, arXiv 2206.00364, with a standard deviation for each coefficient and row). After
300 steps on scans at 128x128 the independent judge finds 31 floors with it and 52 without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.adagn import SCHEDULES
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import NoiseSchedule
from image_longitudinal.models.flattened.blocks import Blocks
from image_longitudinal.models.flattened.detail_gain import LEVELS, SIGMAS, DetailGain, fit_detail_gain
from image_longitudinal.models.flattened.retina import FlattenedRetina
from image_longitudinal.models.imaging.geometry import CURVE_TERMS, bend, flatten

if TYPE_CHECKING:
    from diffusers import UNet2DModel

GRID = 32  # side of the network's grid at every image size
LEAST_STRENGTH = 1e-3  # of a coefficient that hardly varies
LEAST_DEVIATION = 1e-2  # of the mean images' coefficients, which are divided by it


class FlattenedDiffusion(DiffusionModel):
    """Generates scaled residuals of flattened retinas, given their mean image.

    ``row_scale`` (2 S): what a residual is divided by in each row, in units of grey 0 to 1. ``strength`` (C, 32): the
    standard deviation of the scaled residuals' coefficients in each row of blocks. ``grey`` and ``contrast`` (C): mean
    grey level of mean images, and standard deviation of their coefficients. ``detail_grey`` (24,) and ``detail_gain``
    (2, 24): what the detail of finished images is multiplied by, see :class:`DetailGain`.
    """

    row_scale: Tensor
    strength: Tensor
    grey: Tensor
    contrast: Tensor
    detail_grey: Tensor
    detail_gain: Tensor
    alpha: Tensor
    sigma: Tensor

    def __init__(self, retina: FlattenedRetina, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.vae = retina.eval().requires_grad_(False)
        self.image_size, self.latent_dim = retina.image_size, retina.latent_dim
        self.blocks = Blocks(retina.flat_rows // GRID, retina.image_size // GRID)
        self.features = self.blocks.coefficients
        self.working_shape = (self.features, GRID, GRID)
        self.schedule = dict(SCHEDULES["velocity"])
        self.denoiser = _unet(self.working_shape, channels)
        noise = NoiseSchedule.of(self.schedule)
        self.register_buffer("alpha", noise.alpha, persistent=False)
        self.register_buffer("sigma", noise.sigma, persistent=False)
        self.register_buffer("row_scale", torch.ones(retina.flat_rows))
        self.register_buffer("strength", torch.ones(self.features, GRID))
        self.register_buffer("grey", torch.zeros(()))
        self.register_buffer("contrast", torch.ones(self.features))
        self.register_buffer("detail_grey", torch.linspace(0, 1, LEVELS))
        self.register_buffer("detail_gain", torch.ones(len(SIGMAS), LEVELS))
        self.has_detail_gain = False  # weights from before have none: their images stay as they were

    @torch.no_grad()
    def standardise(self, flat: Tensor) -> None:
        """Fit scales to flattened images (n, 1, 2 S, S), values 0 to 1.

        A row's scale is halfway, in logarithms, between its own and the average standard deviation: the bright retina
        keeps more weight in the loss than the dark vitreous, whose noise is seen all the same.
        """
        mean = self.vae.mean_flat(self.vae.scores(flat))
        residual = self.residual(flat, mean)
        by_row = residual.square().mean((0, 1, 3)).sqrt()
        self.row_scale.copy_((by_row * by_row.mean()).sqrt().clamp(min=1e-6))
        self.strength.copy_(self.fold(residual).square().mean((0, 3)).sqrt().clamp(min=LEAST_STRENGTH))
        self.grey.copy_(mean.mean())
        self.contrast.copy_(self.blocks.split(mean - self.grey).std((0, 2, 3)).clamp(min=LEAST_DEVIATION))

    @torch.no_grad()
    def fit_detail(self, generated: Tensor, scans: Tensor) -> None:
        """Fit the gain of the detail to images that were generated without one, and scans, (n, 1, S, S), 0 to 1."""
        grey, gain = fit_detail_gain(generated, scans)
        self.detail_grey.copy_(grey)
        self.detail_gain.copy_(gain)
        self.has_detail_gain = True

    def residual(self, flat: Tensor, mean: Tensor) -> Tensor:
        """What flattened images (B, 1, 2 S, S) add to their mean images, beside the components."""
        return self.vae.without_components(flat - mean)

    def fold(self, residual: Tensor) -> Tensor:
        """Working tensors of residuals (B, 1, 2 S, S)."""
        return self.blocks.split(residual / self.row_scale[:, None])

    def fold_mean(self, mean: Tensor) -> Tensor:
        """The network's view (B, C, 32, 32) of mean images (B, 1, 2 S, S)."""
        return self.blocks.split(mean - self.grey) / self.contrast[:, None, None]

    def context(self, latents: Tensor) -> Tensor:
        """Mean image in blocks, then the four coefficients of the curve as planes: (B, C + 4, 32, 32)."""
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
        """Mean image and residual, bent along the curve, with the gain of the detail: (B, 1, S, S), 0 to 1."""
        mean = self.blocks.join(context[:, : self.features] * self.contrast[:, None, None]) + self.grey
        residual = self.vae.without_components(self.blocks.join(working) * self.row_scale[:, None])
        curves = context[:, -CURVE_TERMS:, 0, 0]
        images = bend(mean + residual, curves, self.image_size).clamp(0, 1)
        return DetailGain(self.detail_grey, self.detail_gain).apply(images) if self.has_detail_gain else images

    def rotate(self, axes: Tensor) -> None:
        """Never: the dimensions of z are ordered by construction."""
        self.vae.rotate(axes)

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The predicted velocity (B, C, 32, 32); z enters by the mean image alone.

        A coefficient of standard deviation k has, in a noisy tensor α·x0 + σ·eps, the deviation d with
        d² = α²k² + σ². Its best linear guess from itself has the velocity α·σ·(1 - k²)/d² times the noisy value; what
        is left of the velocity has the deviation k/d, which is the unit of the network's output.
        """
        alpha, sigma, k, d = (values.to(noisy) for values in self._deviations(timesteps))
        inputs = torch.cat([noisy / d, context[:, : self.features]], dim=1)
        correction = network(inputs, timesteps, return_dict=False)[0]
        return alpha * sigma * (1 - k.square()) / d.square() * noisy + k / d * correction

    def error_weight(self, timesteps: Tensor) -> Tensor:
        """Halfway between equal weights for the velocity and for the network's output, d/k: weak coefficients count.

        After 600 steps on scans at 128x128: 18.2 floors of the independent judge; equal for the velocity 19.8.
        """
        _, _, k, d = self._deviations(timesteps)
        return d / k

    def _deviations(self, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """α, σ, k and d of :meth:`denoise` at timesteps (B,), of shapes that broadcast to (B, C, 32, 32)."""
        alpha, sigma = (values[timesteps][:, None, None, None] for values in (self.alpha, self.sigma))
        k = self.strength[:, :, None]
        return alpha, sigma, k, ((alpha * k).square() + sigma.square()).sqrt()

    @property
    def deviation(self) -> Tensor:
        """Of the coefficients in each row of blocks: (C, 32, 1)."""
        return self.strength[:, :, None]

    def frozen_state(self) -> dict[str, Tensor]:
        """Scales of residual and mean image, and the gain of the detail if it was fitted."""
        gain = ("detail_grey", "detail_gain") if self.has_detail_gain else ()
        return {name: getattr(self, name) for name in ("row_scale", "strength", "grey", "contrast", *gain)}

    def load_frozen_state(self, state: dict[str, Tensor]) -> None:
        """Load the result of :meth:`frozen_state`."""
        for name, values in state.items():
            getattr(self, name).copy_(values)
        self.has_detail_gain = "detail_gain" in state


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
