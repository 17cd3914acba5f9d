"""Cleaned frames kept by the digest of the scan they came from: each is cleaned once, however often it is ingested."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.files import temporary_name
from image_longitudinal.storage.io.root import storage_error


class FrameCache:
    """One folder of PNG files; any of them, or all, may be deleted at any time.

    Args:
        folder: named by everything that decides a frame beside the scan itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, sha256: str) -> NDArray[np.uint8] | None:
        """The frame (H, W) uint8 of a scan, or None where it is not there or cannot be read."""
        try:
            with Image.open(self._path(sha256), formats=("PNG",)) as image:
                return np.asarray(image) if image.mode == "L" else None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's ways to say "damaged"
            return None

    def put(self, sha256: str, framed: NDArray[np.uint8]) -> None:
        """Keep a frame, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._path(sha256)
        temporary = path.parent / temporary_name(path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(framed).save(temporary, "PNG", compress_level=1)
            os.replace(temporary, path)
        except OSError as error:
            raise storage_error("cannot keep a cleaned scan", str(path), error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"
