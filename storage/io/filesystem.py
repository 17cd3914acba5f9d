"""Files under one root, local or in any fsspec store, that appear whole under their name or not at all.

A local file is written under a temporary name beside its target, synced, and moved into place; an object store's put is
atomic already. Leftover temporaries of a killed run are recognised by their name (:func:`clean_temporaries`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, field_validator

from image_longitudinal.core.errors import StorageError

BLOCK = 1 << 20  # bytes per read when hashing or copying: large enough to hide the call, small beside a shard
TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.tmp")

_ADVICE = {
    errno.ENOSPC: "free some space or choose another output, then run the same command again: finished files are kept",
    errno.EDQUOT: "raise the quota or choose another output, then run the same command again: finished files are kept",
    errno.EACCES: "choose an output this user may write to",
    errno.EPERM: "choose an output this user may write to",
    errno.EROFS: "choose an output on a file system that is not read-only",
    errno.ENOTDIR: "choose an output that is a folder",
    errno.EEXIST: "choose an output that is a folder",
    errno.ENOENT: "check the path; if a data set's file is gone, verify the data set",
}


class FileRecord(BaseModel):
    """What a file must be: its path relative to the data set's root, its SHA-256 (64 hex digits), size and rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0)

    @field_validator("path")
    @classmethod
    def _inside_the_root(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts:
            raise ValueError(f"a path inside the data set is expected, got {path!r}")
        return path


class Root(ABC):
    """One folder of files; every path is relative to it, with forward slashes. Made by :func:`open_root`.

    All methods raise StorageError, naming the file and what to do, when the store does.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def join(self, path: str) -> str:
        """The address of ``path``, for people and for other readers."""
        return f"{self.url}/{path}" if path else self.url

    def write_bytes(self, path: str, data: bytes | memoryview, *, rows: int | None = None) -> FileRecord:
        """Write ``data`` as the whole of ``path``, replacing what was there, atomically."""
        return self.write(path, (data,), rows=rows)

    def put_file(self, source: str | Path, path: str, *, rows: int | None = None) -> FileRecord:
        """Copy a local file in as ``path``, atomically."""
        parent, name = os.path.split(os.path.abspath(source))
        return self.write(path, open_root(parent).blocks(name), rows=rows)

    def write(self, path: str, pieces: Iterable[bytes | memoryview], *, rows: int | None = None) -> FileRecord:
        """Write the pieces one after another as the whole of ``path``, atomically; hashed on the way.

        Whatever stops it (a full disk, an error while making the pieces, an interrupt), what is seen under ``path`` is
        the whole old or the whole new file, and the temporary is removed; a killed process may leave that.
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
        """Make ``path`` hold what ``source_path`` holds under another root, by the cheapest way there is.

        Local to local is a hard link (a copy where links are impossible), within one object store a server-side copy,
        otherwise the bytes are streamed. Atomic like :meth:`write`. Linked files share their bytes: check the source
        first, since damage to one is damage to both.
        """
        if not self._clone(source, source_path, path):
            self.write(path, source.blocks(source_path))

    def sha256(self, path: str) -> str:
        """SHA-256 (64 hex digits) of a file, read in pieces."""
        digest = hashlib.sha256()
        for block in self.blocks(path):
            digest.update(block)
        return digest.hexdigest()

    def read_bytes(self, path: str) -> bytes:
        """The whole of ``path``."""
        return b"".join(self.blocks(path))

    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file."""
        return self.size(path) is not None

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of ``path``, or None where there is no such file."""

    @abstractmethod
    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of a few MiB at most."""

    @abstractmethod
    def read_range(self, path: str, start: int, stop: int | None = None) -> bytes:
        """Bytes ``start <= i < stop`` of ``path`` (to its end without a stop); a negative start counts from the end."""

    @abstractmethod
    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges (start, stop) of ``path``, 0 ≤ start ≤ stop, in one go: one open file, or requests at once."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; no error if there is none."""

    @abstractmethod
    def files(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder``, relative to the root, sorted."""

    @abstractmethod
    def entries(self) -> list[str]:
        """Names directly under the root, sorted, without empty folders: cheap however much is there."""

    @abstractmethod
    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None: ...

    @abstractmethod
    def _clone(self, source: Root, source_path: str, path: str) -> bool: ...


class LocalRoot(Root):
    """A folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        super().__init__(str(self.folder))

    def size(self, path: str) -> int | None:
        """Bytes of ``path``, or None where there is no such file."""
        try:
            status = os.stat(self.folder / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error("cannot look up a file", self.join(path), error) from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of about 1 MiB."""
        try:
            with open(self.folder / path, "rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except OSError as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def read_range(self, path: str, start: int, stop: int | None = None) -> bytes:
        """Bytes ``start <= i < stop`` of ``path``; see :meth:`Root.read_range`."""
        try:
            with open(self.folder / path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                start = max(start + size, 0) if start < 0 else start
                return os.pread(file.fileno(), max((size if stop is None else stop) - start, 0), start)
        except OSError as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges of ``path``; see :meth:`Root.read_ranges`."""
        try:
            with open(self.folder / path, "rb", buffering=0) as file:
                return [os.pread(file.fileno(), stop - start, start) for start, stop in ranges]
        except OSError as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def remove(self, path: str) -> None:
        """Remove a file; no error if there is none."""
        try:
            (self.folder / path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("cannot remove a file", self.join(path), error) from error

    def files(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder``, relative to the root, sorted."""
        return sorted(
            (Path(parent) / name).relative_to(self.folder).as_posix()
            for parent, _, names in os.walk(self.folder / folder)
            for name in names
        )

    def entries(self) -> list[str]:
        """Names directly under the root, sorted, without empty folders; see :meth:`Root.entries`."""
        try:
            found = list(os.scandir(self.folder))
            return sorted(entry.name for entry in found if not entry.is_dir() or any(os.scandir(entry.path)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error("cannot list a folder", self.url, error) from error

    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        target = self.folder / path
        temporary = target.parent / temporary_name(target.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb", buffering=BLOCK) as file:  # pieces of some kB would cost a system call each
                for piece in pieces:
                    file.write(piece)
                    _begin_writing_out(file.fileno(), len(piece))
                file.flush()
                os.fsync(file.fileno())
            _move_into_place(temporary, target)
        except OSError as error:
            raise storage_error("cannot write a file", str(target), error) from error
        finally:
            _discard(temporary)

    def _clone(self, source: Root, source_path: str, path: str) -> bool:
        if not isinstance(source, LocalRoot):
            return False
        target = self.folder / path
        temporary = target.parent / temporary_name(target.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source.folder / source_path, temporary)
            _move_into_place(temporary, target)
        except OSError:
            return False  # another file system, no links here, no source: the copy works or says why it cannot
        finally:
            _discard(temporary)  # also after success: rename leaves both names when they are one file already
        return True


def open_root(url: str | Path) -> Root:
    """A local path, ``file://`` or any other fsspec URL as a root; nothing is created or read yet.

    Raises:
        StorageError: for an unknown protocol, or one whose driver is not installed.
    """
    text = str(url)
    if "://" not in text:
        return LocalRoot(text)
    if text.startswith(("file://", "local://")):
        return LocalRoot(text.split("://", 1)[1])
    from image_longitudinal.storage.io.remote import RemoteRoot  # here, since it builds on this module

    return RemoteRoot(text)


def file_record(root: Root, path: str) -> FileRecord:
    """The record of a file that is there, by reading it."""
    return FileRecord(path=path, sha256=root.sha256(path), bytes=root.size(path) or 0)


def clean_temporaries(root: Root) -> list[str]:
    """Remove what killed runs left half-written; returns the paths. Only while nobody else writes to this root."""
    found = [path for path in root.files() if is_temporary(path)]
    for path in found:
        root.remove(path)
    return found


def is_temporary(path: str) -> bool:
    """Whether a path is one of our temporary files."""
    return TEMPORARY.fullmatch(PurePosixPath(path).name) is not None


def temporary_name(name: str) -> str:
    """A fresh temporary name for a file that will be called ``name``."""
    return f".{name}.{secrets.token_hex(4)}.tmp"


def storage_error(what: str, where: str, error: Exception) -> StorageError:
    """``error`` from a store, told as a StorageError that names the file and what to do."""
    number = errno.ENOENT if isinstance(error, FileNotFoundError) else getattr(error, "errno", None) or 0
    if "credential" in f"{type(error).__name__} {error}".lower():
        do = "set the store's credentials in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return StorageError(what, where=where, got=f"{type(error).__name__}: {error}", do=do)
    do = _ADVICE.get(number, "check that the store can be reached, then run the same command again")
    return StorageError(what, where=where, got=f"{type(error).__name__}: {error}", do=do)


def _begin_writing_out(descriptor: int, size: int) -> None:
    """Have the system write to disk what it holds of a file while more of it is made, not all at the end."""
    if size >= BLOCK and hasattr(os, "posix_fadvise"):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.posix_fadvise(descriptor, end - size, size, os.POSIX_FADV_DONTNEED)


def _move_into_place(temporary: Path, target: Path) -> None:
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut may forget the new name
    finally:
        os.close(folder)


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # what stays is known by its name: clean_temporaries
        temporary.unlink(missing_ok=True)
