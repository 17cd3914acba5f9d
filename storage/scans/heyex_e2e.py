"""Scans in Heidelberg's .E2E files: the B-scans of one patient, eye after eye. Needs the extra ``heidelberg``.

Infrared images in them are not taken. eyepy describes the records; its own reader follows places in the file without
end and keeps everything in memory, so the walk along them is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans.heyex import CIRCLE, exactly, pseudonym, reading

CHUNK_MAGIC = "MDbDir"
BSCAN = 35652097  # the type of an image that is a B-scan; 33620481 is infrared
MAX_FOLDERS, MAX_CHUNK_FOLDERS, MAX_RECORD = 500_000, 4096, 4096
MAX_SIDE = 16_384


@dataclass(frozen=True)
class _Bscan:
    start: int  # of its pixels
    rows: int
    columns: int


@dataclass(frozen=True)
class _Content:
    patient: str
    bscans: tuple[_Bscan, ...]


def read_header(path: Path) -> tuple[str, int, int, int]:
    """Patient (a digest), B-scans, and rows and columns of the largest of an .E2E file, without its pixels.

    Raises:
        IngestError: eyepy is missing, the file is damaged, is not of one patient, or holds no B-scan of the macula.
    """
    content = _content(path)
    largest = max(content.bscans, key=lambda one: one.rows * one.columns)
    return content.patient, len(content.bscans), largest.rows, largest.columns


def read_frame(path: Path, index: int) -> NDArray[np.uint8]:
    """B-scan ``index`` of an .E2E file, (H, W), as bright as Heidelberg's program shows it.

    Raises:
        IngestError: see :func:`read_header`.
    """
    bscan = _content(path).bscans[index]
    with reading(".E2E"), path.open("rb") as file:
        from eyepy.core.utils import from_e2e_intensity
        from eyepy.io.he.e2e_format import Bscan

        codes = np.frombuffer(exactly(file, bscan.start, 2 * bscan.rows * bscan.columns, ".E2E"), "<u2")
        shown: NDArray[np.uint8] = from_e2e_intensity(Bscan.LUT[codes].reshape(bscan.rows, bscan.columns))
        return shown


def _content(path: Path) -> _Content:
    status = path.stat()
    return _read_content(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_content(path: Path, size: int, _: int) -> _Content:
    with reading(".E2E"), path.open("rb") as file:
        from eyepy.io.he.e2e_format import TypesEnum, containerheader_format, type9_format, type10004_format

        series: dict[tuple[int, int, int], list[tuple[int, _Bscan]]] = {}  # by patient, study, series: slices
        patterns: dict[tuple[int, int, int], int] = {}
        patients: set[str] = set()
        skipped = containerheader_format.sizeof()
        for folder in _folders(file, size):
            kind, of = int(folder.type), (folder.patient_id, folder.study_id, folder.series_id)
            start = folder.start + skipped
            if kind == TypesEnum.patient:
                patients.add(
                    pseudonym(type9_format.parse(exactly(file, start, _record(folder.size), ".E2E")).patient_id)
                )
            elif kind == TypesEnum.bscanmeta:
                meta = type10004_format.parse(exactly(file, start, _record(folder.size), ".E2E"))
                patterns.setdefault(of, meta.scan_pattern)
            elif kind == TypesEnum.image and (found := _bscan(file, start, size)) is not None:
                series.setdefault(of, []).append((folder.slice_id, found))
        if len(patients) != 1:
            raise IngestError(
                "an .E2E file of several patients, or of none", expected="one patient", got=len(patients),
                do="export each patient to a file of their own",
            )  # fmt: skip
        bscans = tuple(
            bscan
            for of in sorted(series)
            if patterns.get(of) != CIRCLE
            for _slice, bscan in sorted(series[of], key=lambda one: one[0])
        )
        if not bscans:
            raise IngestError("no B-scans of the macula in the .E2E file", got=f"{len(series)} other series")
    return _Content(patients.pop(), bscans)


def _folders(file: BinaryIO, size: int) -> Iterator[Any]:
    """The headers of all records: chunk after chunk, each further back in the file, so that the walk ends."""
    from eyepy.io.he.e2e_format import containerheader_format, folderheader_format, header_format, version_format

    at, count = version_format.sizeof() + header_format.sizeof(), 0
    while at + header_format.sizeof() <= size:
        header = header_format.parse(exactly(file, at, header_format.sizeof(), ".E2E"))
        if header.magic2 != CHUNK_MAGIC or not 1 <= header.num_entries <= MAX_CHUNK_FOLDERS:
            break
        count += header.num_entries
        if count > MAX_FOLDERS:
            raise IngestError("too many records in an .E2E file", expected=f"at most {MAX_FOLDERS}")
        step = folderheader_format.sizeof()
        data = exactly(file, at + header_format.sizeof(), step * header.num_entries, ".E2E")
        folders = [folderheader_format.parse(data[i : i + step]) for i in range(0, len(data), step)]
        yield from (folder for folder in folders if int(folder.type))
        end = at + header_format.sizeof() + len(data)
        at = folders[-1].start + folders[-1].size + containerheader_format.sizeof()
        if at < end:  # the last chunk is filled up with empty headers
            break
    if not count:
        raise IngestError("damaged, or no .E2E file", expected=f"{CHUNK_MAGIC} behind its header")


def _bscan(file: BinaryIO, start: int, size: int) -> _Bscan | None:
    """The B-scan in an image's record; None for other images."""
    _, kind, values, rows, columns = np.frombuffer(exactly(file, start, 20, ".E2E"), "<u4").tolist()
    if kind != BSCAN:
        return None
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE) or values != rows * columns:
        raise IngestError("damaged .E2E file", expected="a B-scan", got=f"{values} values for {columns}x{rows}")
    if start + 20 + 2 * values > size:
        raise IngestError("damaged or truncated .E2E file", got=f"{size} bytes, too few for its B-scans")
    return _Bscan(start + 20, rows, columns)


def _record(size: int) -> int:
    if size > MAX_RECORD:
        raise IngestError("damaged .E2E file", expected=f"a record of at most {MAX_RECORD} bytes", got=size)
    return size
