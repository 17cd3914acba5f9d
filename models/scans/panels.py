"""Several pictures in one file: the infrared panel of an export, scans above one another, scans side by side.

An export of Heidelberg Engineering's viewer has a square infrared picture beside the scan, as high as the scan. Taken
for one scan, such a file would be squeezed to half its width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.scans.layers import SIDE, find_layers, to_grid

Grey = NDArray[np.uint8]

LEAST_REST = 0.7  # of the height: the narrowest scan beside a square panel
SEAM_REACH = 0.02  # of the height: how far the seam may lie from where a square ends
SEAM = 3.0  # times the usual change between neighbouring columns: at most 1.7 in the middle of 380 real scans
STACKED = (2, 3, 4)  # scans above one another that are looked for
UPRIGHT = 1.0  # log odds: a half of a real scan that cuts its retina shows a band, but seldom a vitreous above it
APART = 0.7  # heights of a part between the bands of two parts: the limits of one cut retina are nearer


@dataclass(frozen=True)
class Panel:
    """Columns ``first`` to ``end`` of a file that hold the scan, beside a panel on the ``side``."""

    first: int
    end: int
    side: str


def infrared_panel(grey: Grey) -> Panel | None:
    """The scan beside a square panel without layers in a file (H, W); None if there is no such panel.

    The panel ends at a seam, where the grey changes all the way down; it shows no layers, and the rest does.
    """
    height, width = grey.shape
    if width < (1 + LEAST_REST) * height:
        return None
    for side in ("left", "right"):
        seam = _seam(grey, height if side == "left" else width - height, int(SEAM_REACH * height))
        if seam is None:
            continue
        panel, rest = (grey[:, :seam], grey[:, seam:]) if side == "left" else (grey[:, seam:], grey[:, :seam])
        if not _retina(panel) and (_retina(rest) or _retina(np.uint8(255) - rest)):
            return Panel(seam, width, side) if side == "left" else Panel(0, seam, side)
    return None


def stacked(grey: Grey) -> int:
    """How many scans lie above one another in a file (H, W): 1, or 2 to 4 if every part shows an upright retina."""
    for count in STACKED:
        parts = [find_layers(to_grid(part)) for part in np.array_split(grey, count)]
        bands = [float(part.rows.mean()) / SIDE + place for place, part in enumerate(parts)]  # in heights of a part
        if all(part.found and part.upright > UPRIGHT for part in parts) and np.diff(bands).min() > APART:
            return count
    return 1


def side_by_side(grey: Grey) -> bool:
    """Whether two scans lie side by side in a file (H, W): a seam in the middle, and a retina on both sides of it."""
    width = grey.shape[1]
    seam = _seam(grey, width // 2, 2)
    return seam is not None and _retina(grey[:, :seam]) and _retina(grey[:, seam:])


def _retina(part: Grey) -> bool:
    return find_layers(to_grid(part)).found


def _seam(grey: Grey, at: int, reach: int) -> int | None:
    """The first column right of a seam within ``reach`` columns of ``at``; None if the change there is none."""
    columns = np.asarray(grey, np.float64)
    blocks = columns[: len(columns) // 8 * 8].reshape(-1, 8, columns.shape[1]).mean(1)  # of 8 rows: less speckle
    change = np.abs(np.diff(blocks, axis=1)).mean(0)
    first, end = max(at - 1 - reach, 0), min(at + reach, len(change))
    best = first + int(change[first:end].argmax())
    return best + 1 if change[best] > SEAM * np.median(change) else None
