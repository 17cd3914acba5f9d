"""How a scan lies: inverted (dark on bright), turned by 90°, upside-down. Each has a measure that the defect reverses.

So every real scan tells both what is right and what is wrong: inverting it changes the sign of its polarity, a quarter
turn that of its turn, and mirroring that of ``Layers.upright``. Thresholds lie beyond the lowest value of 380 real
scans (``benchmarks.odd_scans``).
"""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.scans.layers import find_layers, reduced, to_grid

Grey = NDArray[np.uint8]

CLIPPED = (5, 250)  # grey levels beyond are fill, padding and saturation, which say nothing of polarity
INVERTED_BELOW = -0.1  # lowest of 380 real scans: +0.16 (one with a saturated choroid), then +0.44
TURNED_BELOW = -0.1  # lowest of 380 real scans: +0.08 (a steep bowl), then +0.27
UPSIDE_DOWN_BELOW = -2.0  # lowest of 380 real scans: +0.4, then +1.7; of phantoms, whose choroid does not fade: -1.5

INVERTED = "inverted: the vitreous was bright and the layers dark; grey levels were reversed"
TURNED = "turned by 90°: the layers ran up and down; it was turned so that the vitreous is above"
UPSIDE_DOWN = "upside-down: the vitreous was below; it was mirrored at its middle row"


def polarity(grey: Grey) -> float:
    """Where the middle grey of a scan (H, W) lies between its darkest and brightest percentile: 1 dark, -1 bright.

    Most of a scan is vitreous and deep choroid, so it is dark with some bright layers.
    """
    inside = grey[(grey > CLIPPED[0]) & (grey < CLIPPED[1])]
    if inside.size < 100:
        return 0.0
    low, middle, high = np.percentile(inside, (1, 50, 99))
    return float((low + high - 2 * middle) / max(high - low, 1))


def turn(grey: Grey) -> float:
    """How much better depth explains a scan (H, W) than width does, -1 to 1; negative if its layers run up and down."""
    grid = to_grid(grey)
    return find_layers(grid).explained - find_layers(np.rot90(grid)).explained


def darkened(grey: Grey) -> tuple[Grey, tuple[str, ...]]:
    """A scan (H, W) with bright layers on dark, and what was done to it."""
    if polarity(reduced(grey)) < INVERTED_BELOW:
        return np.uint8(255) - grey, (INVERTED,)
    return grey, ()


def righted(grey: Grey) -> tuple[Grey, tuple[str, ...]]:
    """A scan (H, W), dark on the whole, with its layers across and the vitreous above, and what was done to it.

    A turned scan is turned back. An upside-down one is mirrored at its middle row: whether it was mirrored or turned by
    180°, the file does not say, so left and right may be exchanged.
    """
    if turn(grey) < TURNED_BELOW:
        left, right = np.rot90(grey), np.rot90(grey, -1)
        upright = [find_layers(to_grid(one)).upright for one in (left, right)]
        return np.ascontiguousarray(left if upright[0] >= upright[1] else right), (TURNED,)
    if find_layers(to_grid(grey)).upright < UPSIDE_DOWN_BELOW:
        return np.ascontiguousarray(grey[::-1]), (UPSIDE_DOWN,)
    return grey, ()
