"""Scans in Heidelberg's .vol files: the B-scans, never the infrared image beside them. Needs the extra ``heidelberg``.

eyepy says what the header means and how bright a B-scan is shown. Nothing is read before the file is known to hold it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans.heyex import CIRCLE, exactly, pseudonym, reading

HEADER = 2048  # bytes before the infrared image
LEAST_BSCAN_HEADER = 256
SIZE_AT = 12  # where a B-scan's header says its own size, 4 bytes
MAX_SIDE, MAX_BSCANS = 16_384, 4096


@dataclass(frozen=True)
class _Volume:
    patient: str
    rows: int
    columns: int
    starts: tuple[int, ...]  # of the pixels of each B-scan


def read_header(path: Path) -> tuple[str, int, int, int]:
    """Patient (a digest), B-scans, rows and columns of a .vol file, without its pixels.

    Raises:
        IngestError: eyepy is missing, the file is damaged, names no patient, or holds a circular scan.
    """
    volume = _volume(path)
    return volume.patient, len(volume.starts), volume.rows, volume.columns


def read_frame(path: Path, index: int) -> NDArray[np.uint8]:
    """B-scan ``index`` of a .vol file, (H, W), as bright as Heidelberg's program shows it; 0 where nothing was scanned.

    Raises:
        IngestError: see :func:`read_header`.
    """
    volume = _volume(path)
    with reading(".vol"), path.open("rb") as file:
        from eyepy.core.utils import from_vol_intensity

        data = exactly(file, volume.starts[index], 4 * volume.rows * volume.columns, ".vol")
        raw = np.frombuffer(data, "<f4").reshape(volume.rows, volume.columns)
        seen = np.isfinite(raw) & (raw >= 0)
        shown: NDArray[np.uint8] = from_vol_intensity(np.where(seen, raw, np.finfo(np.float32).max))
        return shown


def _volume(path: Path) -> _Volume:
    status = path.stat()
    return _read_volume(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_volume(path: Path, size: int, _: int) -> _Volume:
    with reading(".vol"), path.open("rb") as file:
        from construct import Struct
        from eyepy.io.he.vol_reader import vol_format

        fields = [field for field in vol_format.subcons if field.name not in ("localizer", "bscans")]
        header = Struct(*fields).parse(exactly(file, 0, HEADER, ".vol"))
        rows, columns, count = header.size_y, header.size_x, header.n_bscans
        if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE and 1 <= count <= MAX_BSCANS):
            expected = f"at most {MAX_BSCANS} B-scans of at most {MAX_SIDE} pixels a side"
            raise IngestError("no B-scans in the .vol file", expected=expected, got=f"{count} of {columns}x{rows}")
        if header.scan_pattern == CIRCLE:
            raise IngestError("a circular scan around the optic disc", expected="B-scans through the macula")
        starts, at = [], HEADER + header.size_x_slo * header.size_y_slo
        for _number in range(count):
            own = int.from_bytes(exactly(file, at + SIZE_AT, 4, ".vol"), "little")
            starts.append(at + own)
            at += own + 4 * rows * columns
            if own < LEAST_BSCAN_HEADER or at > size:
                got = f"{size} bytes, too few for {count} B-scans of {columns}x{rows}"
                raise IngestError("damaged or truncated .vol file", got=got)
        patient = pseudonym(str(header.patient_id))
    return _Volume(patient, rows, columns, tuple(starts))
