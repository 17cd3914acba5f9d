"""Cleaned frames kept by the digest of their scan, so that each scan is cleaned once."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.files import replacing
from image_longitudinal.storage.io.root import storage_errors


class FrameCache:
    """One folder of PNG files; any of them, or all, may be deleted at any time.

    Args:
        folder: named by everything that decides a frame besides the scan itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, sha256: str) -> NDArray[np.uint8] | None:
        """The frame (H, W) uint8 of a scan, or None if it is missing or unreadable."""
        try:
            with Image.open(self._path(sha256), formats=("PNG",)) as image:
                return np.asarray(image) if image.mode == "L" else None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for damaged files
            return None

    def put(self, sha256: str, frame: NDArray[np.uint8]) -> None:
        """Keep a frame; StorageError if it cannot be written."""
        path = self._path(sha256)
        with storage_errors("cannot keep a cleaned scan", str(path)), replacing(path) as temporary:
            Image.fromarray(frame).save(temporary, "PNG", compress_level=1)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"
