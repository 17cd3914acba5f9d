"""Pixels of pictures in the formats that scans come in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "TIFF")  # what the bytes may be, whatever the name says
MAX_PIXELS = 64_000_000  # the largest B-scans have under 2 million; decoded, this is 64 MB per channel


def picture_pixels(image: Image.Image) -> NDArray[Any]:
    """The pixels of an open picture, or of the page that it was turned to.

    Returns:
        (H, W) bool, uint8, uint16, int32 or float32; or uint8 (H, W, 2) grey + alpha, (H, W, 3) RGB, (H, W, 4) RGBA.
        Palettes and print colours are converted to RGB, EXIF orientation is applied.
    """
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in ("P", "PA"):
        upright = upright.convert("RGBA" if mode == "PA" or "transparency" in upright.info else "RGB")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        upright = upright.convert("RGB")
    pixels = np.asarray(upright)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
