"""Contact sheets: some images of a set on one page, with their classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

REAL_SCANS = "Real scans of patients: not for publication"  # on every sheet of scans
_GAP, _LINE, _LETTER = 4, 14, 6  # pixels: between tiles, for the class below each, and width of its letters


def contact_sheet(
    images: NDArray[np.uint8],
    labels: Sequence[str],
    *,
    count: int = 48,
    columns: int = 8,
    tile: int = 128,
    note: str = "",
) -> Image.Image:
    """At most ``count`` images, evenly spaced over the classes and within each class.

    Args:
        images: uint8 (n, H, W); read one by one, so it may be a memory map.
        labels: the class of each image.
        count, columns: how many images, and how many of them in a row.
        tile: side in pixels of each image on the sheet.
        note: a line below them.
    """
    shown = evenly(labels, count)
    tiles = [np.asarray(Image.fromarray(np.asarray(images[index])).resize((tile, tile))) for index in shown]
    return _sheet(tiles, [labels[index] for index in shown], columns, note)


def before_and_after(
    before: Sequence[NDArray[np.uint8]],
    after: Sequence[NDArray[np.uint8]],
    labels: Sequence[str],
    *,
    columns: int = 4,
    note: str = "",
) -> Image.Image:
    """Pairs of squares side by side, with their labels: uint8 (S, S) each, all of one size; ``note``: a line below."""
    return _sheet([np.concatenate(pair, axis=1) for pair in zip(before, after, strict=True)], labels, columns, note)


def _sheet(tiles: Sequence[NDArray[np.uint8]], labels: Sequence[str], columns: int, note: str) -> Image.Image:
    """Tiles uint8 (H, W) of one size in rows, each with its label below."""
    height, width = tiles[0].shape
    columns = min(columns, len(tiles))
    step_x, step_y = width + _GAP, height + _LINE + _GAP
    bottom = -(-len(tiles) // columns) * step_y + _GAP
    sheet = Image.new("L", (columns * step_x + _GAP, bottom + (_LINE if note else 0)), 255)
    draw = ImageDraw.Draw(sheet)
    for place, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = _GAP + place % columns * step_x, _GAP + place // columns * step_y
        sheet.paste(Image.fromarray(tile), (x, y))
        draw.text((x + 2, y + height + 1), label.encode("ascii", "replace").decode()[: width // _LETTER], fill=0)
    if note:
        draw.text((_GAP + 2, bottom), note, fill=0)
    return sheet


def evenly(labels: Sequence[str], count: int) -> list[int]:
    """Indices of at most ``count`` images: equal numbers of each class if it has enough, evenly spaced."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    remaining, shown = count, []
    for place, group in enumerate(sorted(members.values(), key=len)):  # small classes leave room to large ones
        n = min(remaining // (len(members) - place), len(group))
        shown += [group[i * len(group) // n] for i in range(n)]
        remaining -= n
    return sorted(shown)
