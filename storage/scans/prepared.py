"""The prepared image set: one local folder that training reads, written whole by ``image_longitudinal.storage.scans.prepared_writer``.

::

    images-<size>.npy    uint8 (n, size, size), one file per size, rows in the order of the manifest
    manifest.json        version, sizes; per image its file, digest, patient, class, split, size; what was set aside
    contact_sheet.png    some 48 of the images with their classes
    before_after.png     of scans: some before and after cleaning, side by side
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.io.root import storage_error

FORMAT, VERSION = "prepared-images", 1
MANIFEST, CONTACT_SHEET, BEFORE_AFTER = "manifest.json", "contact_sheet.png", "before_after.png"


@dataclass(frozen=True)
class ImageView:
    """Some rows of images (n, S, S) uint8 that lie on disk: indexing reads, and copies, what it names."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self.images[self.index[rows]])


@dataclass(frozen=True)
class PreparedImages:
    """A prepared image set that was opened: ``len()`` images, each at every one of ``sizes``."""

    folder: Path
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.manifest["images"])

    @property
    def sizes(self) -> list[int]:
        """Pixels a side, as asked for when the set was written."""
        return list(self.manifest["sizes"])

    @property
    def digest(self) -> str:
        """Names the content (images, splits, classes), wherever the folder lies: 64 hex digits."""
        return str(self.manifest["digest"])

    @property
    def labels(self) -> list[str]:
        """The class of each image."""
        return [record["class"] for record in self.manifest["images"]]

    def images(self, size: int) -> NDArray[np.uint8]:
        """All images at one size: uint8 (n, size, size), 0-255, read-only and mapped from disk, not loaded.

        Raises:
            StorageError: for a size the set does not have, or a file that is not what the manifest says.
        """
        if size not in self.sizes:
            raise StorageError(
                "the prepared images have no such size",
                where=self.folder,
                expected=f"one of {self.sizes}",
                got=size,
                do="ingest the images again with this size",
            )
        path = self.folder / images_file(size)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(path, f"uint8 {(len(self), size, size)}", error) from error
        if images.dtype != np.uint8 or images.shape != (len(self), size, size):
            raise _damaged(path, f"uint8 {(len(self), size, size)}", f"{images.dtype} {images.shape}")
        return images

    def rows(self, size: int, split: str) -> ImageView:
        """The images of one split at one size, read from disk as they are asked for."""
        return ImageView(self.images(size), self.split(split))

    def split(self, name: str) -> NDArray[np.int64]:
        """Indices of the images of one split, int64, ascending; empty for a split nobody is in."""
        return np.array([i for i, r in enumerate(self.manifest["images"]) if r["split"] == name], np.int64)

    def verify(self) -> None:
        """Hash every file of images anew (reads all of it).

        Raises:
            StorageError: names the first file whose bytes are not those that were written.
        """
        for name, written in self.manifest["files"].items():
            found = file_sha256(self.folder / name)
            if found != written["sha256"]:
                raise _damaged(self.folder / name, f"sha256 {written['sha256']}", found)


def open_prepared(folder: str | Path) -> PreparedImages:
    """Open a prepared image set, checking what can be checked without reading the images.

    Raises:
        StorageError: when there is none, it has another version, its manifest was altered, or a file is missing or has
            another length than was written. (``PreparedImages.verify`` checks every byte.)
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StorageError("no prepared images here", where=folder, expected=MANIFEST, do="ingest images") from error
    except OSError as error:
        raise storage_error("cannot read the prepared images", str(path), error) from error
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        kind = f"{manifest.get('format')} {manifest.get('version')}" if isinstance(manifest, dict) else "something else"
        raise StorageError(
            "not prepared images of this version",
            where=path,
            expected=f"{FORMAT} {VERSION}",
            got=kind,
            do="ingest the images again",
        )
    try:
        if manifest["digest"] != prepared_digest(manifest):
            raise _damaged(path, f"digest {manifest['digest']}", prepared_digest(manifest))
        lengths = {name: written["bytes"] for name, written in manifest["files"].items()}
    except (KeyError, TypeError) as error:
        raise _damaged(path, "a complete manifest", repr(error)) from error
    for name, length in lengths.items():
        got = (folder / name).stat().st_size if (folder / name).is_file() else None
        if got != length:
            raise _damaged(folder / name, f"{length} bytes", "no file" if got is None else f"{got} bytes")
    return PreparedImages(folder, manifest)


def images_file(size: int) -> str:
    """The file that holds the images of one size."""
    return f"images-{size}.npy"


def _damaged(path: Path, expected: object, got: object) -> StorageError:
    return StorageError(
        "the prepared images are damaged",
        where=path,
        expected=expected,
        got=got,
        do="delete the folder and ingest again",
    )


def prepared_digest(manifest: Mapping[str, Any]) -> str:
    """What names the content of a prepared set; see :attr:`PreparedImages.digest`."""
    return digest_of(FORMAT, manifest["version"], manifest["sizes"], manifest["files"], manifest["images"])
