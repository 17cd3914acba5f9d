"""Real scans in a folder: finding them, reading them safely, and dividing their patients between splits.

One bad file never stops a run: it becomes a ``SetAside`` with its reason.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from image_longitudinal.core.errors import ConfigError, IngestError
from image_longitudinal.storage.scans.frame_cache import FrameCache

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
    """A file that should hold one scan, and whose it is."""

    path: Path  # to open
    name: str  # relative to the folder searched, with forward slashes: names the file in manifests
    patient: str
    label: str  # class


@dataclass(frozen=True)
class SetAside:
    """A file that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FoundScans:
    """What a folder holds: ``scans`` and ``set_aside`` sorted by name; ``ignored`` counts sidecars and hidden files."""

    scans: list[ScanFile]
    set_aside: list[SetAside]
    ignored: int


@dataclass(frozen=True)
class ReadScan(Generic[T]):
    """A scan that could be read; ``content`` is its pixels, or what was made of them."""

    file: ScanFile
    sha256: str  # of the file's bytes
    width: int
    height: int
    content: T


def find_scans(folder: str | Path) -> FoundScans:
    """Look for scans in ``folder`` and all folders below it, in the order of their names on any machine.

    Files are judged by name and kind only, nothing is opened. Links are followed to files inside the folder, never to
    other folders or out of it.

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
            raise IngestError(
                "cannot list the folder of scans", where=root, got=error.strerror, do="check its permissions"
            ) from error
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
        raise IngestError(
            "no scans found",
            where=root,
            expected=f"files ending in {', '.join(sorted(EXTENSIONS))}",
            got=f"{len(aside)} other files" if aside else "an empty folder",
            do="point at the folder that holds the images or their class folders",
        )
    return FoundScans(sorted(scans, key=lambda s: s.name), sorted(aside, key=lambda s: s.name), ignored)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


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
    """Whose scan a file is, by its name.

    ``<CLASS>-<patient>-<n>`` (Kermany): the class is the prefix and the patient is the number alone, so that a patient
    who appears under several classes is one patient. Any other name: the class is the parent folder's name
    ("unlabelled" directly in ``root``), and each file, by its path without the extension, is its own patient.
    """
    relative = path.relative_to(root)
    name = relative.as_posix()
    if match := KERMANY_NAME.fullmatch(path.stem):
        return ScanFile(path, name, match["patient"], match["label"])
    label = relative.parent.name or "unlabelled"
    return ScanFile(path, name, relative.with_suffix("").as_posix(), label)


def read_scan(file: ScanFile) -> ReadScan[NDArray[Any]] | SetAside:
    """Decode one file, or say why not.

    Size in bytes and in pixels are checked before anything is decoded, so that neither an absurd file nor a small one
    that would unpack into an absurd image costs memory.

    Returns:
        pixels (H, W) bool, uint8, uint16, int32 or float32; or uint8 (H, W, 2) grey + alpha, (H, W, 3) RGB,
        (H, W, 4) RGBA. Palettes and print colours are turned into RGB, the camera's orientation mark is applied.
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


def prepare_scan(
    file: ScanFile,
    clean: Callable[[NDArray[Any]], NDArray[np.uint8]],
    finish: Callable[[NDArray[np.uint8]], T],
    cache: FrameCache | None = None,
) -> ReadScan[T] | SetAside:
    """Read one file and make of its pixels what ``finish(clean(pixels))`` makes; their IngestError sets it aside.

    What a pool of threads maps over the files.

    Args:
        file: which.
        clean: the slow part, which depends on the pixels alone.
        finish: the quick part.
        cache: where the results of ``clean`` are kept by the file's digest.
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


def assign_splits(patients: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Divide patients between splits, each patient wholly in one.

    Patients are lined up by a hash of (seed, patient) and the line is cut at the cumulated fractions, in the order of
    ``fractions``. The counts are therefore exact to rounding (with at least one patient for every fraction above 0
    when there are that many), and each patient who joins or leaves moves at most one other across each cut.

    Args:
        patients: patient keys, in any order; repeats count once.
        fractions: share of the patients by split name, each ≥ 0, together 1.
        seed: another seed, another division.

    Raises:
        ConfigError: when the fractions are not shares of 1.
    """
    total = sum(fractions.values())
    if not fractions or min(fractions.values()) < 0 or abs(total - 1) > 1e-6:
        raise ConfigError("split fractions are impossible", expected="each at least 0, together 1", got=dict(fractions))
    line = sorted(set(patients), key=lambda patient: (_hash(seed, patient), patient))
    wanted = [name for name, share in fractions.items() if share > 0]
    result: dict[str, str] = {}
    begin, cumulated = 0, 0.0
    for place, name in enumerate(wanted):
        cumulated += fractions[name]
        end = int(len(line) * cumulated / total + 0.5)
        if len(line) >= len(wanted):
            end = min(max(end, begin + 1), len(line) - (len(wanted) - 1 - place))
        result |= dict.fromkeys(line[begin:end], name)
        begin = end
    return result


def _hash(seed: int, patient: str) -> bytes:
    text = f"{int(seed)}\x1f{patient}".encode(errors="surrogateescape")  # file names need not be valid text
    return hashlib.blake2b(text, digest_size=16).digest()
