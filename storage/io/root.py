"""What a root is: a folder of files, local or in any fsspec store, that appear whole under their name or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import BLOCK, is_temporary
from image_longitudinal.core.json_input import MAX_DOCUMENT
from image_longitudinal.core.names import Digest, RelativePath
from image_longitudinal.core.paths import open_plain
from image_longitudinal.core.secrets import safe_cause

_ADVICE = {
    errno.ENOSPC: "free some space or choose another output, then run the same command again: finished files are kept",
    errno.EDQUOT: "raise the quota or choose another output, then run the same command again: finished files are kept",
    errno.EACCES: "choose a place that this account may write to: docs/howto/operations.md, several accounts",
    errno.EPERM: "choose a place that this account may write to: docs/howto/operations.md, several accounts",
    errno.EROFS: "choose an output on a file system that is not read-only",
    errno.ENOTDIR: "choose an output that is a folder",
    errno.EEXIST: "choose an output that is a folder",
    errno.ENOENT: "check the path; if a data set's file is gone, verify the data set",
}


class FileRecord(BaseModel):
    """What a file must be: its path relative to the data set's root, its SHA-256 (64 hex digits), size and rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: RelativePath
    sha256: Digest
    bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0)


class Root(ABC):
    """One folder of files; every path is relative to it, with forward slashes. See :func:`storage.io.open.open_root`.

    All methods raise StorageError, which names the file and what to do, when the store fails.
    """

    options: dict[str, Any]  # of the driver of a store, for readers of other libraries

    def __init__(self, url: str) -> None:
        self.url, self.options = url, {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def join(self, path: str) -> str:
        """The address of ``path``, for messages and for other readers."""
        return f"{self.url}/{path}" if path else self.url

    @property
    @abstractmethod
    def filesystem(self) -> tuple[Any, str]:
        """The fsspec file system, None for the local one, and this folder's path in it; for pyarrow."""

    def write_bytes(self, path: str, data: bytes | memoryview, *, rows: int | None = None) -> FileRecord:
        """Write ``data`` as the whole of ``path``, replacing what was there, atomically."""
        return self.write(path, (data,), rows=rows)

    def put_file(self, source: str | Path, path: str, *, rows: int | None = None) -> FileRecord:
        """Copy a local file in as ``path``, atomically."""
        return self.write(path, local_blocks(Path(source)), rows=rows)

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, rows: int | None = None) -> FileRecord:
        """Write the pieces one after another as the whole of ``path``, atomically, and hash them meanwhile.

        After any failure (a full disk, an error from ``pieces``, an interrupt) ``path`` is the whole old file, and the
        temporary file is removed. Only a killed process may leave one: :func:`clean_temporaries`.
        """
        digest, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal size
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                yield piece

        self._write(path, counted())
        return FileRecord(path=path, sha256=digest.hexdigest(), bytes=size, rows=rows)

    def link_or_copy(self, source: Root, source_path: str, path: str) -> None:
        """Copy ``source_path`` of another root to ``path`` in the cheapest way.

        Local to local is a hard link (a copy where links are impossible), within one object store a server-side copy,
        otherwise the bytes are streamed. Atomic like :meth:`write`. Linked files share their bytes, so damage to one
        is damage to both: check the source first.
        """
        if not self._clone(source, source_path, path):
            self.write(path, source.blocks(source_path))

    def sha256(self, path: str) -> str:
        """SHA-256 (64 hex digits) of a file, read in pieces."""
        digest = hashlib.sha256()
        for block in self.blocks(path):
            digest.update(block)
        return digest.hexdigest()

    def vouched_sha256(self, path: str) -> str | None:
        """The SHA-256 that the store computed from the bytes it keeps, without a download; None if it has none."""
        return None

    def read_bytes(self, path: str) -> bytes:
        """The whole of ``path``."""
        return b"".join(self.blocks(path))

    def read_small(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """The whole of a document; StorageError, before anything is read, if it has more than ``limit`` bytes."""
        if (self.size(path) or 0) > limit:
            expected, got = f"at most {limit:,} bytes", f"{self.size(path):,} bytes"
            raise StorageError(
                "a document is larger than one can be", where=self.join(path), expected=expected, got=got
            )
        return self.read_bytes(path)

    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file."""
        return self.size(path) is not None

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of ``path``, or None if there is no such file."""

    @abstractmethod
    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of a few MiB at most."""

    @abstractmethod
    def read_tail(self, path: str, size: int) -> bytes:
        """The last ``size`` > 0 bytes of ``path``, or all of a shorter file."""

    @abstractmethod
    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges (start, stop) of ``path``, 0 ≤ start ≤ stop, in one open file or by parallel requests."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; no error if there is none."""

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder``, relative to the root, sorted."""

    @abstractmethod
    def entries(self) -> list[str]:
        """Names directly under the root, sorted, without empty folders. Costs one listing."""

    @abstractmethod
    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None: ...

    @abstractmethod
    def _clone(self, source: Root, source_path: str, path: str) -> bool: ...


def local_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a local file in pieces of about 1 MiB; StorageError when it cannot be read."""
    with storage_errors("cannot read a file", str(path)), open(open_plain(path), "rb") as file:
        while block := file.read(BLOCK):
            yield block


def file_record(root: Root, path: str) -> FileRecord:
    """The record of an existing file, from reading it."""
    return FileRecord(path=path, sha256=root.sha256(path), bytes=root.size(path) or 0)


def clean_temporaries(root: Root) -> list[str]:
    """Remove the temporary files of killed runs; returns their paths. Only while no other process writes here."""
    found = [path for path in root.files() if is_temporary(path)]
    for path in found:
        root.remove(path)
    return found


def storage_error(what: str, where: str, error: Exception) -> StorageError:
    """The StorageError for a store's ``error``: it names the file and what to do."""
    got = f"{type(error).__name__}: {error}"
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else getattr(error, "errno", None) or 0
    do = _ADVICE.get(number, "check that the store can be reached, then run the same command again")
    if "credential" in got.lower():
        do = "set the store's credentials in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return StorageError(what, where=where, got=got, do=do)


@contextlib.contextmanager
def storage_errors(what: str, where: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turn every ``kind`` of error in the body into a :func:`storage_error`."""
    try:
        yield
    except StorageError:
        raise
    except kind as error:
        raise storage_error(what, where, error) from safe_cause(error)
