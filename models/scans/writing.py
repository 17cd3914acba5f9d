"""Writing burnt into a scan: found, blanked, and never read. It may name a patient.

A line of writing is a row of small marks of one brightness, light on dark or dark on light, with hardly a grey level
between: speckle of a bright layer comes in rows too, but between many greys.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from image_longitudinal.models.scans.cleaning import BACKGROUND_PERCENTILE

Grey = NDArray[np.uint8]

LIGHT, DARK = 0.7, 0.35  # of full scale: strokes are lighter, what they stand on is darker
HEIGHTS = (5, 48)  # pixels: marks that may be characters
WIDEST = 2.0  # widths of a mark in heights
GAP = 2.0  # heights between two marks of a line: the space between words, and a point that is too small for a mark
LEVEL = 0.6  # of a mark's height, which two marks of a line share
LEAST_MARKS = 3
MOST_PAPER = 0.25  # of the scan: a larger light area is an inverted scan
MOST_MARKS = 4000  # more are noise
MOST_BETWEEN = 0.27  # share of pixels neither light nor dark: writing up to 0.1; speckle of 380 real scans 0.45 or more
LEAST_DARK = 0.3  # share of a line of writing that is what it stands on
SATURATED = 0.95  # of full scale: writing is, speckle seldom
MOST_ON_TISSUE = 0.05  # grey pixels less saturated light ones: speckle 0.26 and more, writing on tissue -0.1 and less
MARGIN = 4  # pixels around a line: what compression leaves of its strokes


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` (ends excluded) that hold writing."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def area(self) -> tuple[slice, slice]:
        """The box as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def widened(self, pixels: int, shape: tuple[int, ...]) -> "Box":
        """The box and some pixels around it, within an image of ``shape``."""
        top, left = max(self.top - pixels, 0), max(self.left - pixels, 0)
        return Box(top, min(self.bottom + pixels, shape[0]), left, min(self.right + pixels, shape[1]))


def find_writing(grey: Grey) -> tuple[Box, ...]:
    """Boxes around lines of writing in a scan (H, W), from top to bottom."""
    boxes = [*_lines(grey), *(_with_paper(grey, box) for box in _lines(np.uint8(255) - grey))]
    return tuple(sorted(boxes, key=lambda box: (box.top, box.left)))


def _with_paper(grey: Grey, line: Box) -> Box:
    """A line of dark writing with the light box that it stands on, unless that is a large part of the scan."""
    components, _ = ndimage.label(grey > LIGHT * 255, structure=np.ones((3, 3)))
    counts = np.bincount(components[line.area].ravel())[1:]
    if not counts.any():
        return line
    rows, columns = ndimage.find_objects(components)[counts.argmax()]
    box = _around([line, Box(rows.start, rows.stop, columns.start, columns.stop)])
    if box.height * (box.right - box.left) > MOST_PAPER * grey.size:
        return line
    return box.widened(MARGIN, grey.shape)


def blank(grey: Grey, boxes: tuple[Box, ...]) -> Grey:
    """The scan with the boxes at background, the 33rd percentile of the other pixels."""
    if not boxes:
        return grey
    inside = np.zeros(grey.shape, bool)
    for box in boxes:
        inside[box.area] = True
    return np.where(inside, np.uint8(np.percentile(grey[~inside], BACKGROUND_PERCENTILE)), grey)


def _lines(grey: Grey) -> list[Box]:
    """Boxes around lines of light writing."""
    components, _ = ndimage.label(grey > LIGHT * 255, structure=np.ones((3, 3)))
    pieces = [
        Box(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ndimage.find_objects(components)
    ]
    marks = [piece for piece in pieces if HEIGHTS[0] <= piece.height <= HEIGHTS[1]]
    marks = [mark for mark in marks if mark.right - mark.left <= WIDEST * mark.height]
    if len(marks) > MOST_MARKS:
        return []
    lines: list[list[Box]] = []
    going_on: list[list[Box]] = []
    for mark in sorted(marks, key=lambda mark: mark.left):
        going_on = [line for line in going_on if mark.left - line[-1].right <= GAP * HEIGHTS[1]]
        for line in going_on:
            if _continues(line[-1], mark):
                line.append(mark)
                break
        else:
            lines.append([mark])
            going_on.append(lines[-1])
    found = [_around(line) for line in lines if len(line) >= LEAST_MARKS]
    written = [box for box in found if _is_writing(grey[box.widened(MARGIN, grey.shape).area])]
    return [_completed(box, pieces).widened(MARGIN, grey.shape) for box in written]


def _completed(line: Box, pieces: list[Box]) -> Box:
    """The line with what stands in its rows beside it: points, dashes, and letters that are no marks."""
    reach = GAP * line.height
    level = [
        piece
        for piece in pieces
        if line.top - MARGIN <= piece.top and piece.bottom <= line.bottom + MARGIN and piece.height <= HEIGHTS[1]
    ]
    for piece in sorted(level, key=lambda piece: piece.left):
        if line.left < piece.right and piece.left - line.right <= reach:
            line = _around([line, piece])
    for piece in sorted(level, key=lambda piece: -piece.right):
        if piece.left < line.right and line.left - piece.right <= reach:
            line = _around([line, piece])
    return line


def _continues(last: Box, mark: Box) -> bool:
    heights = last.height, mark.height
    shared = min(last.bottom, mark.bottom) - max(last.top, mark.top)
    return shared >= LEVEL * max(heights) and mark.left - last.right <= GAP * max(heights)


def _around(boxes: list[Box]) -> Box:
    top, bottom = min(box.top for box in boxes), max(box.bottom for box in boxes)
    return Box(top, bottom, min(box.left for box in boxes), max(box.right for box in boxes))


def _is_writing(pixels: Grey) -> bool:
    """Whether nearly all pixels are either light or dark, or its light pixels are saturated, as on bright tissue."""
    light, dark = pixels > LIGHT * 255, pixels <= DARK * 255
    between = 1 - float(light.mean() + dark.mean())
    saturated = float((pixels > SATURATED * 255).sum() / max(light.sum(), 1))
    return (between <= MOST_BETWEEN and dark.mean() >= LEAST_DARK) or between - saturated <= MOST_ON_TISSUE
