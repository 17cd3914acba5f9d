"""Geometry of a retina in a B-scan: trace its outer boundary, fit a curve to it, move columns to flatten or bend it.

The outer boundary is the lower edge of the bright band of the retinal pigment epithelium (RPE): dark choroid lies below
it. Rows are fractions of the image's height, 0 at the top edge and 1 at the bottom edge, so that one curve serves every
resolution. Dynamic programming for layer boundaries: Chiu et al. 2010, Optics Express 18:19413.

Scans are flattened by whole rows of their own fine grid: interpolation would take away the speckle, and an independent
judge of images sees that first (real scans moved by linear interpolation and back: 4 to 6 floors of its distance; by
whole rows: 2.4). Generated images are bent by fractions of a row: whole rows leave steps in the layers (8.6 floors
instead of 7.5).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

TRACED_ROWS, TRACED_COLUMNS = 128, 64  # grid on which boundaries are traced
MAX_STEP = 3  # rows of that grid from one column to the next: slopes up to 56 degrees at equal scales
BAND_ABOVE, BAND_BELOW = (-8, 1), (2, 18)  # rows of that grid, relative to a boundary, that are compared
BAND_WEIGHT = 2.0  # without it (0) one scan in twelve is followed along its inner limit for a part of the width
STEP_PRICE = 0.075  # cost of one row of step, in units of the darkest to the brightest pixel
SMOOTHING = (2.0, 1.5)  # standard deviations of the Gaussian filter, rows and columns of the grid
ROBUST_SCALE = 1.5 / 64  # deviations beyond this, in heights, lose weight in the fit: drusen, detachments, shadows
ROBUST_ROUNDS = 10
CURVE_TERMS = 4  # position, tilt, curvature, asymmetry: Legendre polynomials of degree 0 to 3 over the width
ECHO = 0.1  # of a flattened image's rows at an edge, which are repeated beyond it
BENT_SAMPLES = 4  # per row of a bent image
FLAT_ROW = 0.625  # where the boundary of a flattened retina lies: vitreous and retina above, choroid below


def legendre(columns: int) -> NDArray[np.float64]:
    """Values (columns, 4) of the Legendre polynomials of degree 0 to 3 at the centres of the columns, over -1 to 1."""
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    return np.stack([x**0, x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2], axis=1)


def trace_outer_boundary(images: Tensor) -> Tensor:
    """Rows (B, 64), fractions of the height, of the outer boundary in 64 columns of images (B, 1, H, W), any scale.

    The boundary is the path from left to right that is brightest, with the steepest fall below and a band above that is
    brighter than a wide band below, at a price for steps. The wide band tells it from the inner limit, below which lies
    retina.
    """
    grid = interpolate(images.float(), (TRACED_ROWS, TRACED_COLUMNS), mode="bilinear", antialias=True)
    smooth = _gaussian(grid)
    brightest = smooth.amax((1, 2, 3), keepdim=True)[:, 0].clamp(min=1e-6)
    padded = pad(smooth, (0, 0, 1, 1), mode="replicate")[:, 0]
    gradient = padded[:, 2:] - padded[:, :-2]
    edge = (-gradient).clamp(min=0) / gradient.abs().amax((1, 2), keepdim=True).clamp(min=1e-6)
    contrast = (_band_mean(smooth, *BAND_ABOVE) - _band_mean(smooth, *BAND_BELOW)) / brightest
    cost = -smooth[:, 0] / brightest - edge - BAND_WEIGHT * contrast
    return (_cheapest_path(cost) + 0.5) / TRACED_ROWS


def fit_curve(rows: Tensor) -> Tensor:
    """Legendre coefficients (B, 4) float64, fractions of the height, of traced boundaries (B, n): a robust cubic.

    Iteratively reweighted least squares with Cauchy weights, so that drusen and detachments do not bend the curve.
    """
    basis = torch.from_numpy(legendre(rows.shape[1])).to(rows.device)
    y = rows.double()
    weights = torch.ones_like(y)
    for _ in range(ROBUST_ROUNDS):
        weighted = basis * weights[..., None]
        normal = weighted.transpose(1, 2) @ weighted
        curve = torch.linalg.solve(normal, (weighted.transpose(1, 2) @ (y * weights)[..., None]))[..., 0]
        deviation = y - (curve[:, None] * basis).sum(-1)
        weights = (1 + (deviation / ROBUST_SCALE) ** 2) ** -0.5
    return curve


def curve_rows(curves: Tensor, columns: int) -> Tensor:
    """Rows (B, columns), fractions of the height, of curves (B, 4)."""
    basis = torch.from_numpy(legendre(columns)).to(curves)
    return (curves[:, None] * basis).sum(-1)


def flatten(images: Tensor, curves: Tensor, rows: int, columns: int) -> Tensor:
    """Flattened retinas (B, 1, rows, columns) of images (B, 1, H, W): every column moved so that its curve is level.

    Columns move by whole rows of the finer of the two grids. Rows that come from beyond an edge mirror those within.
    """
    repeats = max(1, -(-rows // images.shape[2]))
    fine = images.repeat_interleave(repeats, dim=2) if repeats > 1 else images
    height = fine.shape[2]
    moved = _move_columns(fine, ((FLAT_ROW - curve_rows(curves, fine.shape[3])) * height).round().long())
    return interpolate(moved, (rows, columns), mode="area")


def visible(curves: Tensor, rows: int, columns: int) -> Tensor:
    """Which pixels of flattened images (B, rows, columns) with curves (B, 4) an image shows: 1, or 0 where mirrored."""
    at = (torch.arange(rows, device=curves.device) + 0.5) / rows
    source = at[None, :, None] - (FLAT_ROW - curve_rows(curves, columns))[:, None, :]
    return ((source >= 0) & (source <= 1)).float()


def bend(flat: Tensor, curves: Tensor, size: int, samples: int = BENT_SAMPLES) -> Tensor:
    """Images (B, C, size, size) of flattened retinas (B, C, R, size): the way back, by fractions of a row.

    Every pixel is the mean of ``samples`` over its height.
    """
    sampled = _sample_columns(flat, FLAT_ROW - curve_rows(curves, size), size * samples)
    return sampled.unflatten(2, (size, samples)).mean(3)


def flatten_smoothly(images: Tensor, curves: Tensor, rows: int) -> Tensor:
    """Flattened retinas (B, 1, rows, W) of finished images (B, 1, H, W), by fractions of a row: the inverse of bend."""
    return _sample_columns(images, curve_rows(curves, images.shape[3]) - FLAT_ROW, rows)


def _sample_columns(images: Tensor, shifts: Tensor, rows: int) -> Tensor:
    """``rows`` samples of every column of images (B, C, H, W), each taken ``shifts`` (B, W) heights further down.

    Cubic convolution (Keys 1981, IEEE Trans ASSP 29:1153). Rows beyond an edge echo what lies at that edge, to and fro:
    mirrored, they would soon show the retina again. That goes on for one height; nothing further away is looked up.
    """
    height = images.shape[2]
    extended = images.index_select(2, _echoed(torch.arange(-height, 2 * height, device=images.device), height))
    at = (torch.arange(rows, device=images.device, dtype=images.dtype) + 0.5) / rows
    source = (at[None, :, None] + shifts[:, None].to(images)) * height - 0.5
    base = source.floor()
    f = source - base
    weights = (
        ((-0.5 * f + 1) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1,
        ((-1.5 * f + 2) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )
    first = (base.long() + height - 1).clamp(0, 3 * height - len(weights))[:, None].expand(-1, images.shape[1], -1, -1)
    sampled = images.new_zeros((*images.shape[:2], *source.shape[1:]))
    for offset, weight in enumerate(weights):
        sampled = sampled + weight[:, None] * extended.gather(2, first + offset)
    return sampled


def _move_columns(images: Tensor, shifts: Tensor) -> Tensor:
    """Move every column (B, W) of images (B, C, H, W) down by whole rows; what enters is mirrored at the edge."""
    height = images.shape[2]
    source = torch.arange(height, device=images.device)[None, :, None] - shifts[:, None, :]
    source = mirrored(source, height)
    return images.gather(2, source[:, None].expand(-1, images.shape[1], -1, -1))


def mirrored(index: Tensor, size: int) -> Tensor:
    """Indices with those beyond an edge mirrored at it."""
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= size, 2 * size - 1 - index, index).clamp(0, size - 1)


def _echoed(index: Tensor, size: int) -> Tensor:
    """Indices with those beyond an edge folded, to and fro, into the band of :data:`ECHO` of the size at that edge."""
    band = max(int(size * ECHO), 1)

    def fold(beyond: Tensor) -> Tensor:
        place = beyond.clamp(min=0) % (2 * band)
        return torch.where(place < band, place, 2 * band - 1 - place)

    above, below = fold(-1 - index), size - 1 - fold(index - size)
    return torch.where(index < 0, above, torch.where(index >= size, below, index))


def _cheapest_path(cost: Tensor) -> Tensor:
    """Row (B, C) of the cheapest path from the first to the last column of ``cost`` (B, R, C), dynamic programming."""
    columns = cost.shape[2]
    steps = torch.arange(-MAX_STEP, MAX_STEP + 1, device=cost.device)
    best, came_from = cost[:, :, 0], []
    for column in range(1, columns):
        padded = pad(best, (MAX_STEP, MAX_STEP), value=float("inf"))
        options = padded.unfold(1, 2 * MAX_STEP + 1, 1) + STEP_PRICE * steps.abs()
        value, choice = options.min(2)
        came_from.append(steps[choice])
        best = value + cost[:, :, column]
    row = best.argmin(1)
    path = [row]
    for step in reversed(came_from):
        row = row + step.gather(1, row[:, None])[:, 0]
        path.append(row)
    return torch.stack(path[::-1], dim=1)


def _band_mean(images: Tensor, first: int, end: int) -> Tensor:
    """Mean (B, H, W) of rows r + first to r + end - 1 around every row r of images (B, 1, H, W), edges repeated."""
    reach, height = max(-first, end), images.shape[2]
    sums = pad(pad(images, (0, 0, reach, reach), mode="replicate")[:, 0].cumsum(1), (0, 0, 1, 0))
    rows = torch.arange(height, device=images.device) + reach
    return (sums[:, rows + end] - sums[:, rows + first]) / (end - first)


def _gaussian(images: Tensor) -> Tensor:
    """Images (B, 1, H, W) smoothed by :data:`SMOOTHING`, edges repeated."""
    for axis, sigma in enumerate(SMOOTHING):
        reach = int(4 * sigma + 0.5)
        x = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        shape, padding = ((1, 1, -1, 1), (0, 0, reach, reach)) if axis == 0 else ((1, 1, 1, -1), (reach, reach, 0, 0))
        images = conv2d(pad(images, padding, mode="replicate"), (kernel / kernel.sum()).reshape(shape))
    return images
