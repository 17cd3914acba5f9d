"""Pictures inside markdown and HTML: figures as SVG in pages, as PNG in artifacts; photographs as PNG."""

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


MOST_MARKS = 800  # points of one series that are drawn as shapes; more become a picture inside the SVG
SVG = {"svg.hashsalt": "image-longitudinal", "svg.fonttype": "none"}  # the same figure, the same text


def picture(shown: bytes | Figure, alt: str = "") -> str:
    """Markdown with an inline PNG or GIF: Prefect's artifacts hold text only."""
    return f"![{alt}]({data_url(shown if isinstance(shown, bytes) else rendered(shown))})"


def data_url(content: bytes, kind: str = "") -> str:
    """A file as a data URL; without ``kind``, its media type, a PNG or GIF."""
    found = kind or ("image/gif" if content.startswith(b"GIF8") else "image/png")
    return f"data:{found};base64,{base64.b64encode(content).decode()}"


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


def vector(figure: Figure) -> bytes:
    """A figure as SVG with its words as text, without anything that differs between runs."""
    from matplotlib import rc_context

    for axis in figure.axes:
        for line in axis.lines:
            line.set_rasterized(line.get_marker() not in ("None", None, "") and np.size(line.get_xdata()) > MOST_MARKS)
        for collection in axis.collections:
            collection.set_rasterized(np.shape(collection.get_offsets())[0] > MOST_MARKS)
    buffer = io.BytesIO()
    with rc_context(SVG):
        figure.savefig(buffer, format="svg", dpi=110, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def rendered(figure: Figure) -> bytes:
    """A figure as PNG, without metadata that differs between runs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
