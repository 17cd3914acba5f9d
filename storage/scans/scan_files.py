"""Scan files: finding them in a folder, reading them safely, and keeping cleaned frames.

A bad file never stops a run: it becomes a :class:`SetAside` with its reason.
"""

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from image_longitudinal.core.errors import IngestError
from image_longitudinal.core.files import portable_name, replacing
from image_longitudinal.storage.io.root import storage_errors

EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "TIFF")  # what the bytes may be, whatever the name says
SIDECARS = frozenset(
    {"files.tsv", "sha256sums", "readme", "readme.md", "readme.txt", "thumbs.db", "license", "license.txt"}
)
MIN_SIDE = 64  # pixels: below, layers of the retina are not resolved
MAX_PIXELS = 64_000_000  # the largest B-scans have under 2 million; decoded, this is 64 MB per channel
MAX_BYTES = 200_000_000

KERMANY_NAME = re.compile(r"(?P<label>[A-Za-z]+)-(?P<patient>\d+)-(?P<number>\d+)")

T = TypeVar("T")


@dataclass(frozen=True)
class ScanFile:
    """A file that should hold one scan, with its patient and class."""

    path: Path
    name: str  # relative to the folder searched, with forward slashes; the name in manifests
    patient: str
    label: str  # class


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


def find_scans(folder: str | Path) -> FoundScans:
    """Find the scans in ``folder`` and all folders below it, sorted by name.

    Files are judged by name and kind only; none is opened. Links are followed to files inside the folder, never to
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


def read_scan(file: ScanFile) -> ReadScan[NDArray[Any]] | SetAside:
    """Decode one file, or set it aside with the reason.

    Sizes in bytes and in pixels are checked before decoding, so that neither a huge file nor a small one that decodes
    to a huge image costs memory.

    Returns:
        pixels (H, W) bool, uint8, uint16, int32 or float32; or uint8 (H, W, 2) grey + alpha, (H, W, 3) RGB,
        (H, W, 4) RGBA. Palettes and print colours are converted to RGB, EXIF orientation is applied.
    """
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
            pixels = _pixels(image)
    except UnidentifiedImageError:
        return SetAside(file.name, "not a JPEG, PNG or TIFF image")
    except Image.DecompressionBombError:
        return SetAside(file.name, f"more than {MAX_PIXELS / 1e6:.0f} megapixels")
    except Exception as error:  # decoders raise nearly anything on damaged bytes, and one file must not stop the run
        return SetAside(file.name, f"damaged or truncated: {type(error).__name__}: {error}")
    height, width = pixels.shape[:2]
    return ReadScan(file, hashlib.sha256(data).hexdigest(), width, height, pixels)


def _unusable(image: Image.Image) -> str | None:
    """Why an image is not decoded, by its header."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return f"{width}x{height}: more than {MAX_PIXELS / 1e6:.0f} megapixels"
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height}: less than {MIN_SIDE} pixels a side"
    frames = getattr(image, "n_frames", 1)
    return f"{frames} frames in one file, expected 1" if frames > 1 else None


def _pixels(image: Image.Image) -> NDArray[Any]:
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    if mode in ("P", "PA"):
        upright = upright.convert("RGBA" if mode == "PA" or "transparency" in upright.info else "RGB")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        upright = upright.convert("RGB")
    pixels = np.asarray(upright)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


FRAME_DIGEST = "sha256"  # the key of a kept frame's digest in its file


class FrameCache:
    """Cleaned frames by the digest of their scan, so that each scan is cleaned once: PNG files that may be deleted.

    Args:
        folder: named by everything that decides a frame besides the scan itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, sha256: str) -> NDArray[np.uint8] | None:
        """The frame (H, W) uint8 of a scan, or None if it is missing or not as it was kept."""
        try:
            with Image.open(self._path(sha256), formats=("PNG",)) as image:
                frame = np.asarray(image)
                return frame if image.mode == "L" and image.info.get(FRAME_DIGEST) == _frame_digest(frame) else None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for damaged files
            return None

    def put(self, sha256: str, frame: NDArray[np.uint8]) -> None:
        """Keep a frame; StorageError if it cannot be written."""
        path = self._path(sha256)
        with storage_errors("cannot keep a cleaned scan", str(path)), replacing(path) as temporary:
            # In the file, because Pillow checks no checksum of a PNG's pixels.
            digest = PngInfo()
            digest.add_text(FRAME_DIGEST, _frame_digest(frame))
            Image.fromarray(frame).save(temporary, "PNG", compress_level=1, pnginfo=digest)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / f"{sha256}.png"


def _frame_digest(frame: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(frame.shape).encode() + np.ascontiguousarray(frame).tobytes()).hexdigest()


def prepare_scan(
    file: ScanFile,
    clean: Callable[[NDArray[Any]], NDArray[np.uint8]],
    finish: Callable[[NDArray[np.uint8]], T],
    cache: FrameCache | None = None,
) -> ReadScan[T] | SetAside:
    """Read one file and return ``finish(clean(pixels))``; an IngestError of either sets the file aside.

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
        framed = cache.get(scan.sha256) if cache else None
        if framed is None:
            framed = clean(scan.content)
            if cache:
                cache.put(scan.sha256, framed)
        content = finish(framed)
    except IngestError as error:
        return SetAside(file.name, str(error))
    return ReadScan(file, scan.sha256, scan.width, scan.height, content)
