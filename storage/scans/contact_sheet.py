"""Contact sheets: some images of a set on one page, with their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_GAP, _LINE = 4, 14  # pixels: between tiles, and for the class below each
_LETTERS = 20  # of the class name fit under a tile


def contact_sheet(
    images: NDArray[np.uint8], labels: Sequence[str], *, count: int = 48, columns: int = 8, tile: int = 128
) -> Image.Image:
    """At most ``count`` images, evenly spaced over the classes and within each class.

    Args:
        images: uint8 (n, H, W); read one by one, so it may be a memory map.
        labels: the class of each image.
        count, columns: how many images, and how many of them in a row.
        tile: side in pixels of each image on the sheet.
    """
    shown = evenly(labels, count)
    columns = max(1, min(columns, len(shown)))
    rows = -(-len(shown) // columns)
    width, height = tile + _GAP, tile + _LINE + _GAP
    sheet = Image.new("L", (columns * width + _GAP, rows * height + _GAP), 255)
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(shown):
        x, y = _GAP + place % columns * width, _GAP + place // columns * height
        sheet.paste(Image.fromarray(np.asarray(images[index])).resize((tile, tile)), (x, y))
        draw.text((x + 2, y + tile + 1), labels[index].encode("ascii", "replace").decode()[:_LETTERS], fill=0)
    return sheet


def before_and_after(
    before: Sequence[NDArray[np.uint8]], after: Sequence[NDArray[np.uint8]], labels: Sequence[str], *, columns: int = 4
) -> Image.Image:
    """Pairs of squares side by side, with their labels: uint8 (S, S) each, all of one size."""
    size = before[0].shape[0]
    width, height = 2 * size + 2 * _GAP, size + _LINE + _GAP
    rows = -(-len(before) // columns)
    sheet = Image.new("L", (min(columns, len(before)) * width + _GAP, rows * height + _GAP), 255)
    draw = ImageDraw.Draw(sheet)
    for place, (first, second, label) in enumerate(zip(before, after, labels, strict=True)):
        x, y = _GAP + place % columns * width, _GAP + place // columns * height
        sheet.paste(Image.fromarray(np.concatenate([first, second], axis=1)), (x, y))
        draw.text((x + 2, y + size + 1), label.encode("ascii", "replace").decode()[: 2 * _LETTERS], fill=0)
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
