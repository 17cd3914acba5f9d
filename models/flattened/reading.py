"""Read the curve and the scores of the flattened retina from finished images: least squares, coarse to fine.

The mean image, bent, is fitted to the whole image by Gauss-Newton steps. So what an image does not show of the
flattened retina, or shows at a lower resolution, is taken into account. Thin bright layers give the sum of squares many
local minima: the fit begins with blurred images of 16x16 pixels, and from two curves, of which the better fit is kept:
the traced one, and the mean one at the height of the traced one. Of 192 images of the model of 64x64, 25 were read with
a curve more than 0.02 heights from the true one by three steps at full size from the traced curve; by this, 6.
From the true curve, none are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from image_longitudinal.models.imaging.geometry import (
    CURVE_TERMS,
    bend,
    fit_curve,
    flatten_smoothly,
    legendre,
    trace_outer_boundary,
)

COARSE, MIDDLE = 16, 32  # sides of the images that are fitted first
FIRST_STEPS, STEPS = 5, 3  # Gauss-Newton steps on blurred images, and at every size
FIRST_LARGEST, LARGEST = 0.05, 0.03  # heights that a coefficient moves at most: further away the linear model fails
DAMPING = 1e-4  # relative to the diagonal: keeps what an image does not show at its start
BATCH = 32  # images: their derivatives take 10 MB each at 128x128
SAMPLES = 2  # per row of a bent derivative


class Fit(NamedTuple):
    """Curves (B, 4) float64 and scores (B, K) float32 of images."""

    curves: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Components:
    """A linear model of flattened images: their mean (R, S) and components (K, R, S)."""

    mean: Tensor
    basis: Tensor

    @property
    def side(self) -> int:
        """Width of the images in pixels."""
        return self.mean.shape[1]

    def shrunk(self, side: int) -> Components:
        """The same for images of ``side`` pixels, of which the side S is a multiple."""
        factor = self.side // side
        if factor == 1:
            return self
        return Components(avg_pool2d(self.mean[None], factor)[0], avg_pool2d(self.basis, factor))

    def flat(self, scores: Tensor) -> Tensor:
        """Mean flattened images (B, 1, R, S) of scores (B, K)."""
        return (self.mean + torch.einsum("bk,krc->brc", scores, self.basis))[:, None]

    def bent(self, fit: Fit) -> Tensor:
        """Mean images (B, 1, S, S)."""
        return bend(self.flat(fit.scores), fit.curves, self.side)


def read_images(images: Tensor, components: Components, usual: Tensor) -> Fit:
    """Curve and scores of images (B, 1, H, W) of any size, values 0 to 1; ``usual`` (4,): the mean curve of scans."""
    side = components.side
    if images.shape[2:] != (side, side):
        images = interpolate(images, (side, side), mode="bilinear", antialias=True)
    fits = [_read_batch(batch, components, usual) for batch in images.split(BATCH)]
    return Fit(torch.cat([fit.curves for fit in fits]), torch.cat([fit.scores for fit in fits]))


def _read_batch(images: Tensor, components: Components, usual: Tensor) -> Fit:
    traced = fit_curve(trace_outer_boundary(images))
    at_height = torch.cat([traced[:, :1], usual[1:].to(traced).expand(len(traced), -1)], dim=1)
    coarse, middle = components.shrunk(COARSE), components.shrunk(MIDDLE)
    fits, errors = [], []
    for curves in (traced, at_height):
        flat = flatten_smoothly(images, curves, components.mean.shape[0])
        fit = Fit(curves, _projected(flat, components))
        fit = _fitted(images, fit, coarse, FIRST_STEPS, FIRST_LARGEST, blurred=True)
        fit = _fitted(images, fit, coarse, STEPS, LARGEST)
        fit = _fitted(images, fit, middle, STEPS, LARGEST)
        fits.append(fit)
        errors.append((images - components.bent(fit)).square().mean((1, 2, 3)))
    better = (errors[1] < errors[0])[:, None]
    fit = Fit(*(torch.where(better, second, first) for first, second in zip(*fits, strict=True)))
    side = 2 * MIDDLE
    while side < components.side:
        if components.side % side == 0:
            fit = _fitted(images, fit, components.shrunk(side), STEPS, LARGEST)
        side *= 2
    return _fitted(images, fit, components, STEPS, LARGEST)


def _projected(flat: Tensor, components: Components) -> Tensor:
    """Scores of flattened images (B, 1, R, S) by least squares."""
    basis = components.basis.flatten(1).double()
    products = (flat[:, 0] - components.mean).flatten(1).double() @ basis.T
    return torch.linalg.solve(basis @ basis.T, products.T).T.float()


def _fitted(images: Tensor, fit: Fit, components: Components, steps: int, largest: float, blurred: bool = False) -> Fit:
    """Gauss-Newton steps at the size of the components."""
    target = avg_pool2d(images, images.shape[3] // components.side)
    for _ in range(steps):
        error = target - components.bent(fit)
        changes = _changes(fit, components)
        if blurred:
            error, changes = _blurred(error), _blurred(changes)
        jacobian = changes.flatten(2)  # (B, D, S * S)
        normal = (jacobian @ jacobian.transpose(1, 2)).double()
        diagonal = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(DAMPING * diagonal + 1e-12)
        gradient = (jacobian @ error.flatten(1)[..., None]).double()
        step = torch.linalg.solve(damped, gradient)[..., 0]
        fit = Fit(
            fit.curves + step[:, :CURVE_TERMS].clamp(-largest, largest), fit.scores + step[:, CURVE_TERMS:].float()
        )
    return fit


def _changes(fit: Fit, components: Components) -> Tensor:
    """Derivatives (B, D, S, S) of the bent mean image by curve and scores."""
    flat, side = components.flat(fit.scores), components.side
    fall = -torch.gradient(flat, dim=2)[0] * flat.shape[2]  # of the image when the curve moves down by a height
    polynomials = torch.from_numpy(legendre(side)).to(flat).T
    by_curve = fall * polynomials[None, :, None]
    planes = torch.cat([by_curve, components.basis.expand(len(flat), -1, -1, -1)], dim=1)
    return bend(planes, fit.curves, side, samples=SAMPLES)


def _blurred(images: Tensor) -> Tensor:
    """Means of 3x3 pixels of images (B, C, H, W)."""
    return avg_pool2d(images, 3, 1, 1, count_include_pad=False)
