"""Layer boundaries of OCT B-scans, traced column by column: the inner limit and the outer boundary (RPE).

Dynamic programming finds the best path through an image (Chiu et al. 2010, *Automatic segmentation of seven retinal
layers in SDOCT images*); the outer boundary is then placed in every column by itself, within reach of the path, so that
torn layers show as they are. Lengths in pixels scale with the image: ``unit`` is 1 pixel of 64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, median_filter, uniform_filter1d

Stack = NDArray[np.float64]  # (n, H, W)
Lines = NDArray[np.float64]  # (n, W), rows from the top

STEP_PRICE = 0.15  # of a path that moves by one unit from column to column, in units of its reward
REACH = 3  # units that the boundary of one column may be away from the path
LEAST_THICKNESS = 4  # units between inner limit and outer boundary: 100 µm of the usual 1.6 mm in 64 pixels


class Boundaries(NamedTuple):
    """Boundaries of n images, in rows from the top.

    ``outer``: lower edge of the pigment epithelium in every column by itself, to a fraction of a pixel; ``path``: the
    smooth path that it is near; ``inner``: the inner limit. ``strength``: how much brighter it is above ``outer`` than
    below, in grey levels.
    """

    outer: Lines
    path: Lines
    inner: Lines
    strength: Lines


def unit_of(images: NDArray[np.uint8]) -> float:
    """Pixels that one of 64 pixels a side is in these images (n, S, S)."""
    return images.shape[-1] / 64


def trace(images: NDArray[np.uint8]) -> Boundaries:
    """Trace images (n, S, S) uint8; S at least 32."""
    grey, unit = images.astype(np.float64), unit_of(images)
    path = _outer_path(grey, unit)
    outer, strength = _outer_by_column(grey, path, unit)
    middle = np.float64(0.5)  # of the pixel that the brightness rises or falls in
    inner = np.asarray(_inner_path(grey, path, unit) + middle, np.float64)
    return Boundaries(outer, np.asarray(path + middle, np.float64), inner, strength)


def smooth(line: Lines, unit: float) -> Lines:
    """The course of a boundary without its jitter: a running median over 9 units, then a mean over 5."""
    reach, mean = 2 * round(4 * unit) + 1, 2 * round(2 * unit) + 1
    return np.asarray(uniform_filter1d(median_filter(line, (1, reach), mode="nearest"), mean, axis=1, mode="nearest"))


def flatten(images: NDArray[np.uint8], outer: Lines, side: int) -> Stack:
    """Images (n, S, S) with the outer boundary moved to one row, as (n, side, side) floats.

    They show 0.55 of the height above the boundary and 0.15 below it; columns are averaged.
    """
    n, size, _ = images.shape
    course = smooth(outer, unit_of(images))
    rows = course[:, None, :] + np.linspace(-0.55, 0.15, side)[None, :, None] * size
    low = np.clip(np.floor(rows).astype(int), 0, size - 2)
    part = np.clip(rows - low, 0, 1)
    grey = gaussian_filter(images.astype(np.float64), (0, 0.35 * size / side, 0))
    upper, lower = (np.take_along_axis(grey, low + step, axis=1) for step in (0, 1))
    flat = upper + part * (lower - upper)
    block = size // side
    return np.asarray(flat[:, :, : block * side].reshape(n, side, side, block).mean(3))


def _outer_path(grey: Stack, unit: float) -> NDArray[np.int64]:
    """The brightest path with dark below: rows (n, W)."""
    softened = gaussian_filter(grey, (0, unit, 1.5 * unit))
    fall = np.maximum(-np.gradient(softened, axis=1), 0)
    reward = softened / _largest(softened) + fall / _largest(fall)
    return _best_path(reward, unit)


def _inner_path(grey: Stack, outer: NDArray[np.int64], unit: float) -> NDArray[np.int64]:
    """The first strong rise from dark to bright above the outer boundary: rows (n, W)."""
    softened = gaussian_filter(grey, (0, 0.8 * unit, 1.5 * unit))
    rise = np.maximum(np.gradient(softened, axis=1), 0)
    rows = np.arange(grey.shape[1])[:, None]
    before = np.cumsum(softened, axis=1) / (rows + 1)  # mean brightness of all that is above
    reward = rise / _largest(rise) - before / _largest(softened)
    below = rows[None] > outer[:, None, :] - round(LEAST_THICKNESS * unit)
    return _best_path(np.where(below, -3.0, reward), unit)


def _best_path(reward: Stack, unit: float) -> NDArray[np.int64]:
    """Rows (n, W) of the path of highest total reward, less the price of its steps."""
    n, height, width = reward.shape
    reach = max(1, round(unit))
    steps = np.arange(-reach, reach + 1)
    price = STEP_PRICE * np.abs(steps) / unit
    best = reward[:, :, 0]
    came = np.zeros((width, n, height), np.int8)
    for column in range(1, width):
        padded = np.pad(best, ((0, 0), (reach, reach)), constant_values=-np.inf)
        options = np.stack([padded[:, reach + s : reach + s + height] - p for s, p in zip(steps, price, strict=True)])
        choice = options.argmax(0)
        came[column] = steps[choice]
        best = np.take_along_axis(options, choice[None], 0)[0] + reward[:, :, column]
    path = np.zeros((n, width), np.int64)
    path[:, -1] = best.argmax(1)
    rows = np.arange(n)
    for column in range(width - 1, 0, -1):
        path[:, column - 1] = path[:, column] + came[column, rows, path[:, column]]
    return path


def _outer_by_column(grey: Stack, path: NDArray[np.int64], unit: float) -> tuple[Lines, Lines]:
    """Where each column falls most from bright to dark near the path, and by how much."""
    size = grey.shape[1]
    over, under = max(1, round(unit)), max(1, round(2 * unit))  # rows compared: the epithelium is one unit thick
    total = np.pad(np.cumsum(grey, axis=1), ((0, 0), (1, 0), (0, 0)))
    reach = round(REACH * unit)
    offsets = np.arange(-reach, reach + 1)
    rows = np.clip(path[:, None, :] + offsets[None, :, None], over, size - under)  # the edge above this row
    middle, top, bottom = (np.take_along_axis(total, rows + shift, axis=1) for shift in (0, -over, under))
    fall = (middle - top) / over - (bottom - middle) / under
    found = np.clip(fall.argmax(1), 1, len(offsets) - 2)[:, None, :]
    before, at, after = (np.take_along_axis(fall, found + shift, axis=1)[:, 0] for shift in (-1, 0, 1))
    bend = before - 2 * at + after
    part = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)  # vertex of the parabola
    row = np.take_along_axis(rows, found, axis=1)[:, 0]
    return row + np.clip(part, -0.5, 0.5), at


def _largest(values: Stack) -> Stack:
    return np.asarray(values.max((1, 2), keepdims=True) + 1e-9)
