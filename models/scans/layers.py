"""The layers of a retina in a scan: is there a bright band across the image, and does depth below it decide the grey?

The measures are taken on a small grid, after the fill of registration is gone. Turned or mirrored, the same scan gives
their counterparts, so real scans show both sides of every threshold (``benchmarks.odd_scans``).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from image_longitudinal.models.scans.cleaning import replace_fill

Grey = NDArray[np.uint8]
Grid = NDArray[np.float64]

SIDE, COLUMNS = 128, 64  # pixels a side of the grid; columns in which the band is followed
SMOOTHING = (
    1.5,
    1.0,
)  # standard deviations of the Gaussian filter, rows and columns of the grid: speckle goes, layers stay
BLACK, WHITE = 20.0, 99.5  # percentiles that become 0 and 1
MAX_STEP, STEP_PRICE = 3, 0.05  # rows from one of the 64 columns to the next: slopes up to 56 degrees; cost of each
REACH = 56  # rows above and below the band that its profile covers
NEAR = 40  # rows above and below it that hold retina and choroid
EDGE = 3  # rows: a band that runs along the image's edge is none
LEAST_LAYERED = 0.23  # least of 380 real scans: 0.27; photographs, letters, noise: up to 0.18, one of a cup 0.23

# What lies below the band less what lies above it, at these distances (rows of the grid), squeezed by tanh(x / 0.1);
# the weights of a logistic regression without intercept that tells 380 real scans from the same ones upside-down.
SIDES = ((2, 6), (6, 12), (12, 20), (20, 28), (28, 36), (36, REACH))
SQUEEZE = 0.1
SIDE_WEIGHTS = (4.4, -1.0, -1.9, 0.7, 2.1, -3.3)


@dataclass(frozen=True)
class Layers:
    """What was found of a retina's layers.

    ``strength``: how much brighter the brightest band across the image is than the middle grey, 0 to 1. ``explained``:
    the share of the variance of grey around the band that depth alone explains, 0 to 1. ``upright``: log odds that
    the vitreous is above. ``rows``: the band in 64 columns, rows of the grid.
    """

    strength: float
    explained: float
    upright: float
    rows: NDArray[np.int64]

    @property
    def layered(self) -> float:
        """How much this looks like a retina: strength times explained share; 0 if the band runs along an edge."""
        along_edge = np.mean((self.rows < EDGE) | (self.rows >= SIDE - EDGE))
        return 0.0 if along_edge > 0.5 else self.strength * self.explained

    @property
    def found(self) -> bool:
        """Whether there are layers of a retina."""
        return self.layered >= LEAST_LAYERED


def reduced(grey: Grey) -> Grey:
    """A scan (H, W) on the grid (128, 128), each pixel the mean of its area."""
    small = Image.fromarray(np.ascontiguousarray(grey)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def to_grid(grey: Grey) -> Grey:
    """A scan (H, W) on the grid, without the fill of registration."""
    return replace_fill(reduced(grey))


def find_layers(grid: Grey) -> Layers:
    """The layers in a grid (128, 128), see :func:`to_grid`."""
    smooth = ndimage.gaussian_filter(grid.astype(np.float64), SMOOTHING)[:, :: SIDE // COLUMNS]
    low, high = np.percentile(smooth, (BLACK, WHITE))
    scaled = np.clip((smooth - low) / max(high - low, 1e-3), -0.2, 1.2)
    rows, brightness = _brightest_path(scaled)
    around = _around(scaled, rows)
    profile = _mean(around)
    near = around[REACH - NEAR : REACH + NEAR + 1]
    variance = float(np.nanvar(near))
    return Layers(
        strength=float(np.clip(brightness - np.median(scaled), 0, 1)),
        explained=float(np.nanvar(_mean(near))) / variance if variance > 0 else 0.0,
        upright=_upright(profile),
        rows=rows,
    )


def _brightest_path(scaled: Grid) -> tuple[NDArray[np.int64], float]:
    """Rows (C,) of the brightest path across the columns of (R, C), and its mean brightness less its mean price."""
    rows, columns = scaled.shape
    steps = np.arange(-MAX_STEP, MAX_STEP + 1)
    price = STEP_PRICE * np.abs(steps)
    best, came_from = scaled[:, 0], []
    for column in range(1, columns):
        padded = np.pad(best, MAX_STEP, constant_values=-np.inf)
        options = np.lib.stride_tricks.sliding_window_view(padded, len(steps)) - price
        choice = options.argmax(1)
        came_from.append(steps[choice])
        best = options[np.arange(rows), choice] + scaled[:, column]
    row = int(best.argmax())
    path = [row]
    for step in reversed(came_from):
        row += int(step[row])
        path.append(row)
    return np.array(path[::-1]), float(best.max()) / columns


def _around(scaled: Grid, rows: NDArray[np.int64]) -> Grid:
    """Every column from 56 rows above to 56 rows below the band, (113, C); NaN beyond the image."""
    index = rows[None] + np.arange(-REACH, REACH + 1)[:, None]
    inside = (index >= 0) & (index < len(scaled))
    return np.where(inside, np.take_along_axis(scaled, index.clip(0, len(scaled) - 1), 0), np.nan)


def _mean(around: Grid) -> Grid:
    """Mean of every row over the columns that show it; NaN where none does."""
    shown = ~np.isnan(around)
    count = shown.sum(1)
    return np.where(count > 0, np.where(shown, around, 0).sum(1) / np.maximum(count, 1), np.nan)


def _upright(profile: Grid) -> float:
    difference = np.nan_to_num(profile - profile[::-1])[REACH:]  # below less above, by distance
    means = [difference[first : end + 1].mean() for first, end in SIDES]
    return float(np.tanh(np.array(means) / SQUEEZE) @ np.array(SIDE_WEIGHTS))
