"""From a scan of any shape to squares of one geometry, by cropping, padding and resizing one image."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]


def frame(grey: Grey) -> Grey:
    """The middle of a scan at full depth, as wide as deep on the tissue.

    One rule for all scans, so that the frame does not reveal the source of a scan:

    - A scan at least twice as wide as deep (1024x496, 1536x496) comes from a mode that samples its width twice as
      densely (Heidelberg Spectralis, high resolution): two of its columns count as one.
    - The width is then cropped around the middle to the depth; a narrower scan is padded with black.

    So 384x496, 512x496, 768x496, 1024x496, 1536x496 and 512x512 scans all show the same depth at the same scale, and
    (512x512 to 3 %) the same width per pixel. A 768-column scan may show a narrow or a wide field: its file does not
    record which.

    Args:
        grey: uint8 (H, W).

    Returns:
        uint8 (H, H), or (H, 2 H) for wide scans.
    """
    height, width = grey.shape
    target = height * (2 if width >= 2 * height else 1)
    if width >= target:
        left = (width - target) // 2
        return grey[:, left : left + target]
    left = (target - width) // 2
    return np.pad(grey, ((0, 0), (left, target - width - left)))


def resize(framed: Grey, size: int) -> Grey:
    """A frame as a square, by an antialiased Lanczos filter.

    uint8 (H, H) or (H, 2 H) → uint8 (size, size).
    """
    if framed.shape == (size, size):
        return framed.copy()
    return np.asarray(Image.fromarray(np.ascontiguousarray(framed)).resize((size, size), Image.Resampling.LANCZOS))


def to_sizes(framed: Grey, sizes: Iterable[int]) -> dict[int, Grey]:
    """A frame as squares of several sizes, each resized from the frame itself, not from another size."""
    return {size: resize(framed, size) for size in sizes}


def to_square(grey: Grey, size: int) -> Grey:
    """The middle of a scan (H, W) as a square (size, size), anatomy undistorted: :func:`frame`, then :func:`resize`."""
    return resize(frame(grey), size)
