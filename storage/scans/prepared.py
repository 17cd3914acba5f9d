"""The prepared image set: one local folder that training reads, written by :mod:`storage.scans.prepared_writer`.

::

    images-<size>.npy    uint8 (n, size, size), one file per size, rows in the order of the manifest
    manifest.json        see storage.scans.prepared_manifest
    contact_sheet.png    up to 48 of the images with their classes
    before_after.png     of scans: some before and after cleaning, side by side
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.io.root import storage_error
from image_longitudinal.storage.scans.prepared_manifest import FORMAT, VERSION, PreparedManifest

MANIFEST, CONTACT_SHEET, BEFORE_AFTER = "manifest.json", "contact_sheet.png", "before_after.png"


@dataclass(frozen=True)
class ImageView:
    """Some rows of images (n, S, S) uint8 on disk: indexing reads and copies them."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.asarray(self.images[self.index[rows]])


@dataclass(frozen=True)
class PreparedImages:
    """An opened prepared image set: ``len()`` images, each at every one of ``sizes``."""

    folder: Path
    manifest: PreparedManifest

    def __len__(self) -> int:
        return len(self.manifest.images)

    @property
    def sizes(self) -> list[int]:
        """Pixels a side, in the order in which the set was written."""
        return list(self.manifest.sizes)

    @property
    def digest(self) -> str:
        """See :attr:`PreparedManifest.digest`."""
        return self.manifest.digest

    @property
    def labels(self) -> list[str]:
        """The class of each image."""
        return [image.label for image in self.manifest.images]

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
        """The images of one split at one size, read from disk when indexed."""
        return ImageView(self.images(size), self.split(split))

    def split(self, name: str) -> NDArray[np.int64]:
        """Indices of the images of one split, int64, ascending; empty for an unknown split."""
        return np.array([i for i, image in enumerate(self.manifest.images) if image.split == name], np.int64)

    def verify(self) -> None:
        """Hash every file of images.

        Raises:
            StorageError: names the first file whose bytes are not those that were written.
        """
        for name, written in self.manifest.files.items():
            found = file_sha256(self.folder / name)
            if found != written.sha256:
                raise _damaged(self.folder / name, f"sha256 {written.sha256}", found)


def open_prepared(folder: str | Path) -> PreparedImages:
    """Open a prepared image set and check everything but the bytes of the images (see :meth:`PreparedImages.verify`).

    Raises:
        StorageError: there is none, it has another version, its manifest was altered, or a file is missing or has
            another length.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise StorageError("no prepared images here", where=folder, expected=MANIFEST, do="ingest images") from error
    except OSError as error:
        raise storage_error("cannot read the prepared images", str(path), error) from error
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        got = f"{content.get('format')} {content.get('version')}" if isinstance(content, dict) else "another file"
        raise StorageError(
            "not prepared images of this version",
            where=path,
            expected=f"{FORMAT} {VERSION}",
            got=got,
            do="ingest the images again",
        )
    try:
        manifest, digest = PreparedManifest.from_dict(content), content["digest"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "a complete manifest", repr(error)) from error
    if manifest.digest != digest:
        raise _damaged(path, f"digest {digest}", manifest.digest)
    for name, written in manifest.files.items():
        file = folder / name
        got = f"{file.stat().st_size} bytes" if file.is_file() else "no file"
        if got != f"{written.bytes} bytes":
            raise _damaged(file, f"{written.bytes} bytes", got)
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
