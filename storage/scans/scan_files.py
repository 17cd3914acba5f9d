"""Scan files: finding them in a folder, reading them safely, and keeping cleaned frames.

A bad file never stops a run: it becomes a :class:`SetAside` with its reason.
"""

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from image_longitudinal.core.clean_scan import CleanScan
from image_longitudinal.core.digest import file_sha256_once
from image_longitudinal.core.errors import IngestError
from image_longitudinal.core.files import local_name, portable_name
from image_longitudinal.storage.scans import volumes
from image_longitudinal.storage.scans.frame_cache import FrameCache
from image_longitudinal.storage.scans.pictures import FORMATS, MAX_PIXELS, picture_pixels

PICTURES = frozenset({".jpeg", ".jpg", ".png", *volumes.TIFF})
EXTENSIONS = PICTURES | volumes.SUFFIXES
SIDECARS = frozenset(
    {"files.tsv", "sha256sums", "readme", "readme.md", "readme.txt", "thumbs.db", "license", "license.txt"}
)
MIN_SIDE = 64  # pixels: below, layers of the retina are not resolved
MAX_BYTES = 200_000_000
MAX_VOLUME_BYTES = 4_000_000_000  # mapped or read frame by frame, never whole

KERMANY_NAME = re.compile(r"(?P<label>[A-Za-z]+)-(?P<patient>\d+)-(?P<number>\d+)")

T = TypeVar("T")


@dataclass(frozen=True)
class ScanFile:
    """A file that should hold one scan, or a B-scan of a stack in a file, with its patient and class."""

    path: Path
    name: str  # relative to the folder searched, with forward slashes; the name in manifests
    patient: str
    label: str  # class
    slice: int | None = None  # which B-scan of a stack; None for a file that is a picture


@dataclass(frozen=True)
class SetAside:
    """A file that is not used, and why."""

    file: str  # relative to the folder searched, as ScanFile.name
    reason: str


@dataclass(frozen=True)
class FoundScans:
    """What a folder holds: ``scans`` and ``set_aside`` sorted by name; ``ignored`` counts sidecars and hidden files."""

    scans: list[ScanFile]
    set_aside: list[SetAside]
    ignored: int


@dataclass(frozen=True)
class ReadScan(Generic[T]):
    """A scan that could be read; ``content`` is its pixels, or the result of preparing them."""

    file: ScanFile
    sha256: str  # of the file's bytes
    width: int
    height: int
    content: T
    cures: tuple[str, ...] = ()  # what was mended because the scan was odd


def find_scans(folder: str | Path) -> FoundScans:
    """Find the scans in ``folder`` and all folders below it, sorted by name.

    Pictures are judged by name and kind only; of stacks (:mod:`storage.scans.volumes`) the header is read, and each
    B-scan is a scan. Links are followed to files inside the folder, never to
    folders or out of it.

    Raises:
        IngestError: when the folder is missing, is not a folder, cannot be listed, or holds no image file.
    """
    root = Path(folder)
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing there"
        raise IngestError("no folder of scans", where=root, expected="a folder", got=got, do="check the path")
    inside = root.resolve()
    scans: list[ScanFile] = []
    aside: list[SetAside] = []
    ignored = 0

    def unlistable(error: OSError) -> None:
        if Path(error.filename) == root:
            problem, do = "cannot list the folder of scans", "check its permissions"
            raise IngestError(problem, where=root, got=error.strerror, do=do) from error
        aside.append(SetAside(_name(Path(error.filename), root), f"folder cannot be listed: {error.strerror}"))

    for parent, folders, files in os.walk(root, onerror=unlistable):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        aside += [SetAside(_name(Path(parent) / name, root), "link to a folder, not followed") for name in links]
        ignored += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for file in files:
            path = Path(parent) / file
            if file.startswith(".") or file.lower() in SIDECARS:
                ignored += 1
            elif reason := _unfit(path, inside):
                aside.append(SetAside(_name(path, root), reason))
            elif path.suffix.lower() in volumes.SUFFIXES or volumes.is_tiff_stack(path):
                found = _slices(scan_file(path, root))
                if isinstance(found, SetAside):
                    aside.append(found)
                else:
                    scans += found
            else:
                scans.append(scan_file(path, root))
    if not scans:
        expected = f"files ending in {', '.join(sorted(EXTENSIONS))}"
        got = f"{len(aside)} other files" if aside else "an empty folder"
        do = "point at the folder that holds the images or their class folders"
        raise IngestError("no scans found", where=root, expected=expected, got=got, do=do)
    return FoundScans(sorted(scans, key=lambda s: s.name), sorted(aside, key=lambda s: s.file), ignored)


def _name(path: Path, root: Path) -> str:
    return portable_name(path.relative_to(root).as_posix())


def _unfit(path: Path, inside: Path) -> str | None:
    """Why a file is no candidate, by name and kind."""
    if reason := volumes.reader_needed(path.suffix):
        return reason
    if path.suffix.lower() not in EXTENSIONS:
        return "not an image file"
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(inside):
            return "link that leaves the folder"
        return None if stat.S_ISREG(path.stat().st_mode) else "not a regular file"
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"cannot be reached: {getattr(error, 'strerror', None) or error}"


def scan_file(path: Path, root: Path) -> ScanFile:
    """The patient and class of a file, from its name.

    ``<CLASS>-<patient>-<n>`` (Kermany): the class is the prefix, the patient the number alone, so that a patient with
    several classes is one patient. Any other name: the class is the parent folder's name ("unlabelled" directly in
    ``root``), and each file, by its path without the extension, is its own patient.
    """
    name = _name(path, root)
    relative = PurePosixPath(name)
    if match := KERMANY_NAME.fullmatch(relative.stem):
        return ScanFile(path, name, match["patient"], match["label"])
    label = relative.parent.name or "unlabelled"
    return ScanFile(path, name, relative.with_suffix("").as_posix(), label)


def _slices(file: ScanFile) -> list[ScanFile] | SetAside:
    """Every B-scan of a stack, of the patient whom its tags name; set aside if its header cannot be read."""
    try:
        if (size := file.path.stat().st_size) > MAX_VOLUME_BYTES:
            return SetAside(file.name, f"{size / 1e9:.1f} GB, more than {MAX_VOLUME_BYTES / 1e9:.0f} GB")
        stack = volumes.read_stack(file.path)
    except OSError as error:
        return SetAside(file.name, f"unreadable: {error.strerror}")
    except IngestError as error:
        return SetAside(file.name, str(error))
    if reason := _unusable_size(stack.columns, stack.rows):
        return SetAside(file.name, reason)
    return [
        replace(
            file,
            name=volumes.slice_name(file.name, index, stack.slices),
            patient=stack.patient or file.patient,
            slice=index,
        )
        for index in range(stack.slices)
    ]


def listed_scan(folder: Path, name: str) -> ScanFile:
    """The scan of a name in a manifest, to be read again from the folder that was ingested."""
    file, index = volumes.file_and_slice(name)
    return replace(scan_file(folder / local_name(file), folder), name=name, slice=index)


def read_scan(file: ScanFile) -> ReadScan[NDArray[Any]] | SetAside:
    """Decode one file, or set it aside with the reason.

    Sizes in bytes and in pixels are checked before decoding, so that neither a huge file nor a small one that decodes
    to a huge image costs memory.

    Returns:
        pixels (H, W) bool, uint8, uint16, int32 or float32; or uint8 (H, W, 2) grey + alpha, (H, W, 3) RGB,
        (H, W, 4) RGBA. Palettes and print colours are converted to RGB, EXIF orientation is applied.
    """
    if file.slice is not None:
        return _read_slice(file, file.slice)
    try:
        size = file.path.stat().st_size
        if size == 0:
            return SetAside(file.name, "empty file")
        if size > MAX_BYTES:
            return SetAside(file.name, f"{size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB")
        data = file.path.read_bytes()
    except OSError as error:
        return SetAside(file.name, f"unreadable: {error.strerror}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if reason := _unusable(image):
                return SetAside(file.name, reason)
            pixels = picture_pixels(image)
    except UnidentifiedImageError:
        return SetAside(file.name, "not a JPEG, PNG or TIFF image")
    except Image.DecompressionBombError:
        return SetAside(file.name, f"more than {MAX_PIXELS / 1e6:.0f} megapixels")
    except Exception as error:  # decoders raise nearly anything on damaged bytes, and one file must not stop the run
        return SetAside(file.name, f"damaged or truncated: {type(error).__name__}: {error}")
    height, width = pixels.shape[:2]
    return ReadScan(file, hashlib.sha256(data).hexdigest(), width, height, pixels)


def _read_slice(file: ScanFile, index: int) -> ReadScan[NDArray[Any]] | SetAside:
    try:
        pixels = volumes.read_slice(file.path, index)
        sha256 = file_sha256_once(file.path)
    except OSError as error:
        return SetAside(file.name, f"unreadable: {error.strerror}")
    except IngestError as error:
        return SetAside(file.name, str(error))
    height, width = pixels.shape[:2]
    return ReadScan(file, hashlib.sha256(f"{sha256}#{index}".encode()).hexdigest(), width, height, pixels)


def _unusable(image: Image.Image) -> str | None:
    """Why an image is not decoded, by its header."""
    if reason := _unusable_size(*image.size):
        return reason
    frames = getattr(image, "n_frames", 1)
    return f"{frames} frames in one file, expected 1" if frames > 1 else None


def _unusable_size(width: int, height: int) -> str | None:
    if width * height > MAX_PIXELS:
        return f"{width}x{height}: more than {MAX_PIXELS / 1e6:.0f} megapixels"
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height}: less than {MIN_SIDE} pixels a side"
    return None


def prepare_scan(
    file: ScanFile,
    clean: Callable[[NDArray[Any]], CleanScan],
    finish: Callable[[NDArray[np.uint8]], T],
    cache: FrameCache | None = None,
) -> ReadScan[T] | SetAside:
    """Read one file, ``clean`` its pixels and ``finish`` the frame; an IngestError of either sets the file aside.

    Args:
        file: the file.
        clean: the slow part, which depends on the pixels alone.
        finish: the quick part.
        cache: keeps the results of ``clean`` by the file's digest.
    """
    scan = read_scan(file)
    if isinstance(scan, SetAside):
        return scan
    try:
        cleaned = cache.get(scan.sha256) if cache else None
        if cleaned is None:
            cleaned = clean(scan.content)
            if cache:
                cache.put(scan.sha256, cleaned)
        content = finish(cleaned.frame)
    except IngestError as error:
        return SetAside(file.name, str(error))
    return ReadScan(file, scan.sha256, scan.width, scan.height, content, cleaned.cures)
