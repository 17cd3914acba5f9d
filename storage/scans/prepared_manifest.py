"""The manifest of a prepared image set: what it holds, where each image came from, and which files were set aside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from image_longitudinal.core.digest import digest_of
from image_longitudinal.storage.scans.scan_files import SetAside

FORMAT, VERSION = "prepared-images", 1


@dataclass(frozen=True)
class PreparedImage:
    """One image: file and digest it came from, patient, class, size in pixels before preparation, split."""

    file: str
    sha256: str
    patient: str
    label: str
    width: int
    height: int
    split: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the label is called ``class``."""
        return {"class" if name == "label" else name: value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreparedImage:
        """The record of :meth:`to_dict`'s values."""
        return cls(label=values["class"], **{name: value for name, value in values.items() if name != "class"})


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
    """Numbers of images, patients, files set aside and files ignored; images by split and by class."""

    images: int
    patients: int
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
        return json.dumps(content, indent=1)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PreparedManifest:
        """The manifest with the values of :meth:`to_json`; KeyError or TypeError if some are missing or unknown."""
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
