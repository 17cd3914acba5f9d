"""Cleaned frames of scans, kept under the digest of the scan's bytes, so that each scan is cleaned once."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from image_longitudinal.core.clean_scan import CleanScan
from image_longitudinal.core.files import replacing
from image_longitudinal.storage.io.root import storage_errors

FRAME_DIGEST, FRAME_CURES = "sha256", "cures"  # the keys of a kept frame's digest and cures in its file


class FrameCache:
    """Cleaned frames by the digest of their scan, so that each scan is cleaned once: PNG files that may be deleted.

    Args:
        folder: named by everything that decides a frame besides the scan itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, sha256: str) -> CleanScan | None:
        """The frame (H, W) uint8 of a scan and its cures, or None if it is missing or not as it was kept."""
        try:
            with Image.open(self._path(sha256), formats=("PNG",)) as image:
                cures = str(image.info.get(FRAME_CURES, ""))
                kept = CleanScan(np.asarray(image), tuple(cures.split("\n")) if cures else ())
                return kept if image.mode == "L" and image.info.get(FRAME_DIGEST) == _frame_digest(kept) else None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for damaged files
            return None

    def put(self, sha256: str, clean: CleanScan) -> None:
        """Keep a frame and its cures; StorageError if it cannot be written."""
        path = self._path(sha256)
        with storage_errors("cannot keep a cleaned scan", str(path)), replacing(path) as temporary:
            # In the file, because Pillow checks no checksum of a PNG's pixels.
            texts = PngInfo()
            texts.add_text(FRAME_DIGEST, _frame_digest(clean))
            if clean.cures:
                texts.add_itxt(FRAME_CURES, "\n".join(clean.cures))
            Image.fromarray(clean.frame).save(temporary, "PNG", compress_level=1, pnginfo=texts)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"


def _frame_digest(clean: CleanScan) -> str:
    described = repr((clean.frame.shape, clean.cures)).encode()
    return hashlib.sha256(described + np.ascontiguousarray(clean.frame).tobytes()).hexdigest()
