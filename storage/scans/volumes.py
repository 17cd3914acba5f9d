"""Files that may hold a stack of B-scans: NumPy arrays, DICOM, TIFF, Heidelberg's. Each is a scan of one patient.

Files of scanners that only other packages read are named with the package and the way to convert them.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans import dicom, heyex_e2e, heyex_vol
from image_longitudinal.storage.scans.pictures import picture_pixels

NPY = ".npy"
TIFF = frozenset({".tif", ".tiff"})
READERS = {**dict.fromkeys(dicom.SUFFIXES, dicom), ".vol": heyex_vol, ".e2e": heyex_e2e}
SUFFIXES = frozenset({NPY, *READERS})  # always stacks; of TIFF files those of several pages
UNREAD = {".fda": "oct-converter", ".fds": "oct-converter"}  # whose 0.7 stops at NumPy 2.4
CHANNELS = (1, 2, 3, 4)  # a last axis of this length is colour, not width
MAX_SLICES = 4096  # the densest volumes have 1024
SLICE = re.compile(r"(?P<file>.+)#(?P<slice>\d+)")  # the name of a B-scan in a stack: volume.npy#012


@dataclass(frozen=True)
class Stack:
    """What a file holds: its patient (None: the file says nothing), and B-scans of so many rows and columns."""

    patient: str | None
    slices: int
    rows: int
    columns: int


def read_stack(path: Path) -> Stack:
    """What a file holds, without reading its pixels.

    Raises:
        IngestError: it is damaged, or holds no scans.
    """
    if path.suffix.lower() in TIFF:
        with _tiff(path) as image:
            stack = Stack(None, _pages(image), image.height, image.width)
    elif path.suffix.lower() == NPY:
        shape = _mapped(path).shape
        flat = len(shape) == 2 or shape[-1] in CHANNELS
        stack = Stack(None, 1, *shape[:2]) if flat else Stack(None, *shape[:3])
    else:
        stack = Stack(*READERS[path.suffix.lower()].read_header(path))
    if not 1 <= stack.slices <= MAX_SLICES:
        raise IngestError("too many B-scans in a file", expected=f"at most {MAX_SLICES}", got=stack.slices)
    return stack


def read_slice(path: Path, index: int) -> NDArray[Any]:
    """B-scan ``index`` of a file, as :func:`models.scans.cleaning.to_grey` takes it.

    Integers of more than 8 bits become fractions of one full scale, that of the brightest pixel of the whole file, so
    that the B-scans of a stack keep their relative brightness.

    Raises:
        IngestError: see :func:`read_stack`.
    """
    if path.suffix.lower() in TIFF:
        return _read_page(path, index)
    if path.suffix.lower() != NPY:
        return READERS[path.suffix.lower()].read_frame(path, index)
    array = _mapped(path)
    pixels = np.array(array if array.ndim == 2 or array.shape[-1] in CHANNELS else array[index])
    if np.issubdtype(pixels.dtype, np.integer) and pixels.dtype.itemsize > 1:
        status = os.stat(path)
        low, high = _range(path, status.st_size, status.st_mtime_ns)
        if low < 0 or high > 65535:
            raise IngestError("pixel values are out of range", expected="0 to 65535", got=f"{low} to {high}")
        return (pixels / (2 ** max(8, high.bit_length()) - 1)).astype(np.float32)
    return pixels


def is_tiff_stack(path: Path) -> bool:
    """Whether a file is a TIFF of several pages; one that cannot be read is a picture like others, and set aside."""
    if path.suffix.lower() not in TIFF:
        return False
    try:
        with _tiff(path) as image:
            return _pages(image, most=2) > 1
    except (OSError, IngestError):
        return False


def slice_name(file: str, index: int, slices: int) -> str:
    """The name of a B-scan in manifests: that of the file, with ``#`` and its number if there are several."""
    return f"{file}#{index:03d}" if slices > 1 else file


def file_and_slice(name: str) -> tuple[str, int | None]:
    """The file of a name in manifests, and which of its B-scans is meant; None for a file that holds one picture."""
    if (match := SLICE.fullmatch(name)) and Path(match["file"]).suffix.lower() in SUFFIXES | TIFF:
        return match["file"], int(match["slice"])
    return name, 0 if Path(name).suffix.lower() in SUFFIXES else None


def reader_needed(suffix: str) -> str | None:
    """Why a scanner's own format is not read, and what to do; None for other files."""
    package = UNREAD.get(suffix.lower())
    if package is None:
        return None
    return (
        f"{suffix} is a scanner's own format, which is not read. Export DICOM instead, or read it with {package} "
        "(pip install) and save each volume with numpy.save, B-scans x rows x columns, one file per eye"
    )


@contextmanager
def _tiff(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            yield image
    except (IngestError, OSError):
        raise
    except Exception as error:  # directories of damaged files raise nearly anything
        raise IngestError("damaged, or no TIFF file", got=f"{type(error).__name__}: {error}") from error


def _pages(image: Image.Image, most: int = MAX_SLICES + 1) -> int:
    """Pages of a TIFF file, at most ``most``: each is looked for behind the one before. Turns back to the first."""
    count = 1
    while count < most:
        try:
            image.seek(count)
        except EOFError:
            break
        count += 1
    image.seek(0)
    return count


def _read_page(path: Path, index: int) -> NDArray[Any]:
    with _tiff(path) as image:
        size = image.size
        image.seek(index)
        if image.size != size:  # a thumbnail, or a smaller copy of the first page
            expected, got = (f"{width}x{height} pixels" for width, height in (size, image.size))
            raise IngestError("pages of a TIFF file differ in size", expected=expected, got=got)
        return picture_pixels(image)


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # headers of damaged files raise nearly anything
        raise IngestError("damaged, or no NumPy array", got=f"{type(error).__name__}: {error}") from error
    expected = "(H, W), (H, W, 1 to 4) or (B-scans, H, W) of numbers"
    if (
        not isinstance(array, np.ndarray)
        or array.ndim not in (2, 3)
        or 0 in array.shape
        or array.dtype.kind not in "buif"
    ):
        got = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        raise IngestError("the array holds no scans", expected=expected, got=got)
    return array


@lru_cache(maxsize=64)
def _range(path: Path, *_: int) -> tuple[int, int]:
    array = _mapped(path)
    return int(array.min()), int(array.max())
