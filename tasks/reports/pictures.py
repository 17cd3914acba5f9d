"""Small pictures inside markdown and HTML."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # importing it is slow
    from matplotlib.figure import Figure


def picture(png: bytes, alt: str = "") -> str:
    """Markdown with an inline PNG: Prefect's artifacts hold text only."""
    return f"![{alt}]({data_url(png)})"


def data_url(picture: bytes) -> str:
    """A PNG or GIF as a data URL."""
    kind = "gif" if picture.startswith(b"GIF8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def thumbnail(path: Path, width: int = 640) -> bytes:
    """A picture file as PNG, at most ``width`` pixels wide: artifacts are stored in a database."""
    with Image.open(path) as image:
        image.thumbnail((width, 4 * width))
        return _png(image)


def mosaic(images: NDArray[np.uint8], columns: int, scale: int = 1) -> bytes:
    """Images (n, S, S) in rows of ``columns``, as PNG; ``scale`` enlarges each pixel."""
    n, size = len(images), images.shape[1]
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, size, size), np.uint8)
    sheet[:n] = images
    grid = sheet.reshape(rows, columns, size, size).transpose(0, 2, 1, 3).reshape(rows * size, columns * size)
    return _png(Image.fromarray(grid.repeat(scale, 0).repeat(scale, 1)))


def rendered(figure: Figure) -> bytes:
    """A figure as PNG, without metadata that differs between runs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
