"""The review sheet: what ingest refused, what it cured and some of what it took, each with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from image_longitudinal.storage.scans.contact_sheet import REAL_SCANS

TILE, GAP, LINE, LETTER = 176, 6, 13, 6  # pixels: side of a picture, between entries, per line of text, per letter
COLUMNS = 3
LINES = 4  # of text below an entry


@dataclass(frozen=True)
class ReviewEntry:
    """One file: what it holds (H, W) uint8 (None: nothing that can be shown), what was made of it, and why.

    ``after`` is the prepared square, or None if the file was refused.
    """

    file: str
    verdict: str
    before: NDArray[np.uint8] | None
    after: NDArray[np.uint8] | None


def review_sheet(entries: Sequence[ReviewEntry], note: str = "") -> Image.Image:
    """All entries in rows, before beside after; a line on top says that the sheet shows real scans, and ``note``."""
    width, height = 2 * TILE + 2, TILE + LINES * LINE
    rows = -(-len(entries) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (width + GAP) + GAP, LINE + GAP + rows * (height + GAP)), 255)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 1), _ascii(f"{REAL_SCANS}. {note}"), fill=0)
    for place, entry in enumerate(entries):
        x, y = GAP + place % COLUMNS * (width + GAP), LINE + GAP + place // COLUMNS * (height + GAP)
        draw.rectangle((x, y, x + width - 1, y + TILE - 1), fill=220)
        for picture, left in ((entry.before, x), (entry.after, x + TILE + 2)):
            if picture is not None:
                shown = Image.fromarray(np.ascontiguousarray(picture))
                shown.thumbnail((TILE, TILE))
                sheet.paste(shown, (left, y))
        for line, text in enumerate(_wrapped(f"{entry.file}: {entry.verdict}", width // LETTER)[:LINES]):
            draw.text((x, y + TILE + line * LINE), text, fill=0)
    return sheet


def _wrapped(text: str, length: int) -> list[str]:
    plain = _ascii(text)
    return [plain[start : start + length] for start in range(0, len(plain), length)]


def _ascii(text: str) -> str:
    return text.replace("°", " deg").encode("ascii", "replace").decode()
