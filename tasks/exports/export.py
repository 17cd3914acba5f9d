"""Writing a data set in the form of another home: piece by piece, resumable, and checked.

A piece is one file or more. Its record, with the SHA-256 of every file, is written after its files, below ``.export/``.
The same command again keeps the pieces whose files are as recorded and makes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.names import Digest
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import file_is_intact
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.table_reader import check_is_one_of
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries

RECORDS = ".export"  # hidden, so that readers of the other homes do not take it for data
JOB = f"{RECORDS}/job.json"


@dataclass(frozen=True)
class Part:
    """The subjects ``start <= id < stop`` of one split in one shard."""

    shard: int
    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class Export:
    """What is exported: a data set, and its splits and association levels that are chosen."""

    dataset: Dataset
    splits: tuple[str, ...]
    levels: tuple[float, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """The chosen subjects, by shard and split."""
        for shard in self.dataset.plan:
            for part in shard.splits:
                if part.split in self.splits:
                    yield Part(shard.index, part.split, part.start, part.stop)

    @property
    def is_irregular(self) -> bool:
        """Whether subjects have visit times of their own."""
        return bool(self.dataset.manifest.config.get("outcomes", {}).get("jitter"))


@dataclass(frozen=True)
class Piece:
    """Some files of an export: a name for their record, how many subjects they hold, and what writes them."""

    name: str
    subjects: int
    write: Callable[[Root], Iterable[FileRecord]]


@dataclass(frozen=True)
class Home:
    """A form in which other tools expect such data.

    Attributes:
        name: what ``--to`` calls it.
        pieces: what an export consists of; they may be written in any order and at the same time.
        closing: the files that describe the whole, written last.
        next: what to do with the result, for people; ``{}`` stands for its address.
    """

    name: str
    pieces: Callable[[Export], Iterable[Piece]]
    closing: Callable[[Export, Root], Iterable[FileRecord]]
    next: str


@dataclass(frozen=True)
class Exported:
    """Progress of an export: subjects written or kept and in all, those of them kept from before, and bytes."""

    subjects: int
    of: int
    kept: int
    bytes: int


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Record):
    """Which export a folder holds."""

    home: str
    identity: Digest
    splits: tuple[str, ...]
    levels: tuple[float, ...]
    version: int = 1  # of the files that the homes write


class PieceRecord(_Record):
    """The files of one piece."""

    files: tuple[FileRecord, ...]


def by_part(write: Callable[[Export, Part, Root], Iterable[FileRecord]]) -> Callable[[Export], Iterator[Piece]]:
    """The pieces of a home that writes the subjects of each shard and split apart."""

    def pieces(export: Export) -> Iterator[Piece]:
        for part in export.parts:

            def written(root: Root, part: Part = part) -> Iterable[FileRecord]:
                return write(export, part, root)

            yield Piece(f"{part.split}-{part.shard:05d}", part.stop - part.start, written)

    return pieces


def choose(dataset: Dataset, splits: Sequence[str] | None, levels: Sequence[float] | None) -> Export:
    """What to export: all splits and levels unless some are named; StorageError for one that does not exist."""
    manifest = dataset.manifest
    for split in splits or ():
        check_is_one_of("split", split, manifest.present_splits)
    for level in levels or ():
        check_is_one_of("association level", level, manifest.levels)
    return Export(
        dataset,
        tuple(split for split in manifest.present_splits if not splits or split in splits),
        tuple(level for level in manifest.levels if not levels or level in levels),
    )


def write_export(
    export: Export,
    target: Root,
    home: Home,
    *,
    workers: int = 2,
    overwrite: bool = False,
    progress: Callable[[Exported], None] | None = None,
) -> Exported:
    """Write an export, or what is missing or damaged of it.

    Args:
        export: what to write.
        target: an empty folder or URL, or one with the same export, complete or not.
        home: its form.
        workers: pieces written at a time.
        overwrite: remove another export that the target holds.
        progress: called after each piece.

    Raises:
        StorageError: the target holds other files or another export, or a store fails.
    """
    job = Job(home=home.name, identity=export.dataset.manifest.identity, splits=export.splits, levels=export.levels)
    _check_target(target, job, overwrite)
    pieces = list(home.pieces(export))
    done = Exported(0, sum(piece.subjects for piece in pieces), 0, 0)
    with hold_lease(target) as lease, ThreadPoolExecutor(workers, thread_name_prefix="export") as pool:
        clean_temporaries(target)
        _claim(target, job)
        try:
            for piece, (record, kept) in zip(pieces, pool.map(lambda one: _made(target, one), pieces), strict=True):
                lease.check()
                size = 0 if kept else sum(file.bytes for file in record.files)
                done = Exported(
                    done.subjects + piece.subjects, done.of, done.kept + kept * piece.subjects, done.bytes + size
                )
                if progress:
                    progress(done)
            _made(target, Piece("whole", 0, lambda root: home.closing(export, root)))
        finally:
            pool.shutdown(cancel_futures=True)
    return done


def check_export(target: Root) -> list[str]:
    """Paths of the files of an export that are missing or not as they were written; StorageError if it is none."""
    if not target.exists(JOB):
        raise StorageError("no export here", where=target.url, expected=f"a folder with {JOB}")
    records = [PieceRecord.model_validate_json(target.read_small(path)) for path in _records(target)]
    files = [file for record in records for file in record.files]
    return [file.path for file in files if not file_is_intact(target, file, rehash=True)]


def _made(target: Root, piece: Piece) -> tuple[PieceRecord, bool]:
    """The record of a piece, and whether it was there before."""
    path = f"{RECORDS}/{piece.name}.json"
    if (found := _read(target, path)) and all(file_is_intact(target, one, rehash=True) for one in found.files):
        return found, True
    record = PieceRecord(files=tuple(piece.write(target)))
    target.write_bytes(path, record.model_dump_json(indent=1).encode())
    return record, False


def _read(target: Root, path: str) -> PieceRecord | None:
    """A record, or None where there is none or it is damaged: then the piece is made again."""
    if not target.exists(path):
        return None
    try:
        return PieceRecord.model_validate_json(target.read_small(path))
    except ValidationError:
        return None


def _check_target(target: Root, job: Job, overwrite: bool) -> None:
    """StorageError if the target holds something that must stay."""
    if target.exists(JOB):
        if target.read_small(JOB) != _document(job) and not overwrite:
            do = "name another folder, or replace it with --overwrite (in Python: overwrite=True)"
            raise StorageError("the folder holds another export", where=target.url, do=do)
    elif foreign := [name for name in target.entries() if name != layout.LEASE]:
        do = "name another folder, or move these files away"
        raise StorageError("the folder holds other files", where=target.url, got=", ".join(foreign[:3]), do=do)


def _claim(target: Root, job: Job) -> None:
    """Say in the target which export it holds; first remove the files of another one that is to be replaced."""
    if target.exists(JOB) and target.read_small(JOB) != _document(job):
        for path in _records(target):
            if record := _read(target, path):
                for file in record.files:
                    target.remove(file.path)
            target.remove(path)
    target.write_bytes(JOB, _document(job))


def _document(job: Job) -> bytes:
    return job.model_dump_json(indent=1).encode()


def _records(target: Root) -> list[str]:
    return [path for path in target.files(RECORDS) if path != JOB]
