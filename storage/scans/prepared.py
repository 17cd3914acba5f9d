"""The prepared image set: one local folder that training reads, written by :mod:`storage.scans.prepared_writer`.

::

    images-<size>.npy    uint8 (n, size, size), one file per size, rows in the order of the manifest
    manifest.json        what the set holds, where each image came from, and which files were set aside
    contact_sheet.png    up to 48 of the images with their classes
    before_after.png     of scans: some before and after cleaning, side by side
    review.png           of scans, if asked for: files refused and scans cured, with the reasons, and some others
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.digest import SEAL, digest_of, file_sha256_once
from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.storage.io.root import storage_error
from image_longitudinal.storage.scans.scan_files import SetAside

FORMAT, VERSION = "prepared-images", 1
MANIFEST, CONTACT_SHEET, BEFORE_AFTER = "manifest.json", "contact_sheet.png", "before_after.png"
REVIEW = "review.png"


@dataclass(frozen=True)
class PreparedImage:
    """One image: file and digest it came from, patient, class, size in pixels before preparation, split, cures."""

    file: str
    sha256: str
    patient: str
    label: str
    width: int
    height: int
    split: str
    cures: tuple[str, ...] = ()  # what was mended because the scan was odd

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the label is called ``class``, and cures are left out where there are none."""
        values = {"class" if name == "label" else name: value for name, value in vars(self).items()}
        return values if self.cures else {name: value for name, value in values.items() if name != "cures"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreparedImage:
        """The record of :meth:`to_dict`'s values, used up."""
        return cls(label=values.pop("class"), cures=tuple(values.pop("cures", ())), **values)


@dataclass(frozen=True)
class ImageSource:
    """What the images are: phantoms or scans, and the code version of the phantom or of the scans' preparation."""

    kind: Literal["phantom", "scans"]
    version: int
    folder: str | None = None  # name of the scans' folder
    denoise: str | None = None  # how scans were denoised

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as in a manifest and in a model's metadata."""
        if self.kind == "phantom":
            return {"kind": self.kind, "version": self.version}
        preparation = {"version": self.version, "denoise": self.denoise}
        return {"kind": self.kind, "folder": self.folder, "preparation": preparation}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageSource:
        """The record of :meth:`to_dict`'s values."""
        if values["kind"] == "phantom":
            return cls("phantom", values["version"])
        return cls("scans", folder=values["folder"], **values["preparation"])


@dataclass(frozen=True)
class DuplicatePair:
    """Two files of different patients that look alike, and the number of hash bits in which they differ."""

    files: tuple[str, str]
    patients: tuple[str, str]
    bits: int


@dataclass(frozen=True)
class ImagesFile:
    """Digest and length of one file of images."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images, patients, cured images, files set aside and files ignored; images by split and by class."""

    images: int
    patients: int
    cured: int
    set_aside: int
    ignored: int
    by_split: dict[str, int]
    by_class: dict[str, int]


@dataclass(frozen=True)
class ImageStatistics:
    """Images by size before preparation (``WxH``), patients by class and by their number of images."""

    by_size: dict[str, int]
    patients_by_class: dict[str, int]
    patients_by_number_of_images: dict[str, int]


@dataclass(frozen=True)
class PreparedManifest:
    """Everything about a prepared set but the pixels; ``images`` in the order of the rows."""

    sizes: tuple[int, ...]  # pixels a side
    fractions: Mapping[str, float]  # of the patients, by split
    seed: int
    near_duplicates: tuple[DuplicatePair, ...]
    source: ImageSource
    files: Mapping[str, ImagesFile]
    images: tuple[PreparedImage, ...]
    set_aside: tuple[SetAside, ...]
    ignored: int

    @cached_property
    def digest(self) -> str:
        """Names the content (images, splits, classes), independent of the folder: 64 hex digits."""
        files = {name: asdict(file) for name, file in self.files.items()}
        return digest_of(FORMAT, VERSION, self.sizes, files, [image.to_dict() for image in self.images])

    @property
    def counts(self) -> ImageCounts:
        """Counts of images, patients and files."""
        return ImageCounts(
            images=len(self.images),
            patients=len({image.patient for image in self.images}),
            cured=sum(bool(image.cures) for image in self.images),
            set_aside=len(self.set_aside),
            ignored=self.ignored,
            by_split=dict(Counter(image.split for image in self.images)),
            by_class=dict(Counter(image.label for image in self.images)),
        )

    @property
    def statistics(self) -> ImageStatistics:
        """Sizes of the scans, and how many each patient has."""
        by_size = Counter(f"{image.width}x{image.height}" for image in self.images)
        by_number = Counter(Counter(image.patient for image in self.images).values())
        by_class = Counter(label for label, _ in {(image.label, image.patient) for image in self.images})
        return ImageStatistics(
            by_size=dict(by_size.most_common()),
            patients_by_class=dict(sorted(by_class.items())),
            patients_by_number_of_images={str(number): count for number, count in sorted(by_number.items())},
        )

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "sizes": self.sizes,
            "counts": asdict(self.counts),
            "split": {"fractions": dict(self.fractions), "seed": self.seed},
            "statistics": asdict(self.statistics),
            "near_duplicates": [asdict(pair) for pair in self.near_duplicates],
            "source": self.source.to_dict(),
            "files": {name: asdict(file) for name, file in self.files.items()},
            "images": [image.to_dict() for image in self.images],
            "set_aside": [asdict(item) for item in self.set_aside],
            "digest": self.digest,
        }
        return json.dumps({**content, SEAL: digest_of(content)}, indent=1)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> PreparedManifest:
        """The manifest of :meth:`to_json`'s values, used up; KeyError or TypeError if some are missing or unknown."""
        return cls(
            sizes=tuple(content["sizes"]),
            fractions=content["split"]["fractions"],
            seed=content["split"]["seed"],
            near_duplicates=tuple(
                DuplicatePair(tuple(pair["files"]), tuple(pair["patients"]), pair["bits"])
                for pair in content["near_duplicates"]
            ),
            source=ImageSource.from_dict(content["source"]),
            files={name: ImagesFile(**file) for name, file in content["files"].items()},
            images=tuple(PreparedImage.from_dict(image) for image in content["images"]),
            set_aside=tuple(SetAside(**item) for item in content["set_aside"]),
            ignored=content["counts"]["ignored"],
        )


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

        The file is hashed once per process.

        Raises:
            DamagedError: the file is not what the manifest says.
            StorageError: for a size the set does not have.
        """
        if size not in self.sizes:
            expected, do = f"one of {self.sizes}", "ingest the images again with this size"
            problem = "the prepared images have no such size"
            raise StorageError(problem, where=self.folder, expected=expected, got=size, do=do)
        path, expected = self.folder / images_file(size), f"uint8 {(len(self), size, size)}"
        self._check(path.name)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _damaged(path, expected, error) from error
        if (found := f"{images.dtype} {images.shape}") != expected:
            raise _damaged(path, expected, found)
        return images

    def rows(self, size: int, split: str) -> ImageView:
        """The images of one split at one size, read from disk when indexed."""
        return ImageView(self.images(size), self.split(split))

    def split(self, name: str) -> NDArray[np.int64]:
        """Indices of the images of one split, int64, ascending; empty for an unknown split."""
        return np.array([i for i, image in enumerate(self.manifest.images) if image.split == name], np.int64)

    def verify(self) -> None:
        """Hash every file of images, once per process.

        Raises:
            DamagedError: names the first file whose bytes are not those that were written.
        """
        for name in self.manifest.files:
            self._check(name)

    def _check(self, name: str) -> None:
        path, written = self.folder / name, self.manifest.files[name]
        try:
            found = file_sha256_once(path)
        except OSError as error:
            raise _damaged(path, f"{written.bytes} bytes", error) from error
        if found != written.sha256:
            raise _damaged(path, f"sha256 {written.sha256}", found)


def open_prepared(folder: str | Path) -> PreparedImages:
    """Open a prepared image set and check everything but the bytes of the images, which are checked when they are used.

    Raises:
        DamagedError: its manifest is not as written, or a file is missing or has another length.
        StorageError: there is none, or it has another version.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError("no prepared images here", where=folder, expected=MANIFEST, do="ingest images") from error
    except OSError as error:
        raise storage_error("cannot read the prepared images", str(path), error) from error
    except ValueError as error:
        raise _damaged(path, "JSON", error) from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        got = f"{content.get('format')} {content.get('version')}" if isinstance(content, dict) else "another file"
        problem, do = "not prepared images of this version", "ingest the images again"
        raise StorageError(problem, where=path, expected=f"{FORMAT} {VERSION}", got=got, do=do)
    written = content.pop(SEAL, None)
    if written != digest_of(content):
        raise _damaged(path, "content that matches its digest", "other content")
    try:
        manifest, digest = PreparedManifest.from_dict(content), content["digest"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "a complete manifest", repr(error)) from error
    if manifest.digest != digest:
        raise _damaged(path, f"digest {digest}", manifest.digest)
    if foreign := sorted(set(manifest.files) ^ {images_file(size) for size in manifest.sizes}):
        raise _damaged(path, "one file of images for each size", ", ".join(foreign))
    for name, written in manifest.files.items():
        file = folder / name
        got = f"{file.stat().st_size} bytes" if file.is_file() else "no file"
        if got != f"{written.bytes} bytes":
            raise _damaged(file, f"{written.bytes} bytes", got)
    return PreparedImages(folder, manifest)


def images_file(size: int) -> str:
    """The file that holds the images of one size."""
    return f"images-{size}.npy"


def _damaged(path: Path, expected: object, got: object) -> DamagedError:
    do = "ingest the images again, which replaces what is damaged"
    return DamagedError("the prepared images are damaged", where=path, expected=expected, got=got, do=do)
