"""A root in an object store or any other fsspec file system; credentials come from the environment alone.

Requests that fail are tried again after a while, on top of what the store's own driver does: a store that is away for
some seconds stops no run of hours.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import fsspec

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.io.filesystem import Root, storage_error, temporary_name

OBJECT_STORES = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}  # a put shows whole
REQUEST = 8 << 20  # bytes per request when a whole object is read: long beside the way there and back
PAUSES = (1.0, 4.0)  # seconds before another attempt; drivers of object stores have backed off for a while already
# Another attempt would end the same; a driver says NotImplementedError of what its store cannot do at all.
DEFINITE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError,
            NotImplementedError, ImportError)  # fmt: skip

T = TypeVar("T")


def persistently(action: Callable[[], T]) -> T:
    """The result of ``action``, tried again where it fails for a reason that may pass."""
    for pause in PAUSES:
        try:
            return action()
        except DEFINITE:
            raise
        except Exception:  # drivers raise what they like
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that many workers do not come back at once
    return action()


class RemoteRoot(Root):
    """A folder of any other fsspec file system."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        try:
            self._fs, base = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            do = "check the address, or install the fsspec driver of its protocol"
            raise StorageError("cannot open a store", where=url, got=error, do=do) from error
        self._process = os.getpid()
        self.base = base.rstrip("/")
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self._puts_are_atomic = bool(OBJECT_STORES.intersection(protocols))

    @property
    def fs(self) -> Any:
        """The file system; opened anew in a forked process, such as a data loader's worker, for connections do not
        survive a fork.
        """
        if self._process != os.getpid():
            self._fs, _ = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            self._process = os.getpid()
        return self._fs

    def key(self, path: str) -> str:
        """The name of ``path`` in its file system."""
        return f"{self.base}/{path}" if path else self.base

    def size(self, path: str) -> int | None:
        """Bytes of ``path``, or None where there is no such file."""
        try:
            info = persistently(lambda: self.fs.info(self.key(path)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise storage_error("cannot look up a file", self.join(path), error) from error
        return int(info["size"]) if info["type"] == "file" else None

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of 8 MiB, each asked for by itself."""
        try:
            size = int(persistently(lambda: self.fs.info(self.key(path)))["size"])
            for start in range(0, size, REQUEST):
                block = self._range(path, start, min(start + REQUEST, size))
                if len(block) != min(REQUEST, size - start):
                    raise OSError(f"the file ended early, {start + len(block)} of {size} bytes")
                yield block
        except GeneratorExit:
            raise
        except Exception as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def read_range(self, path: str, start: int, stop: int | None = None) -> bytes:
        """Bytes ``start <= i < stop`` of ``path``; see :meth:`Root.read_range`."""
        try:
            return self._range(path, start, stop)
        except Exception as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def _range(self, path: str, start: int, stop: int | None) -> bytes:
        return bytes(persistently(lambda: self.fs.cat_file(self.key(path), start=start, end=stop)))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges of ``path``, asked for at once; see :meth:`Root.read_ranges`."""
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        try:
            return [
                bytes(piece)
                for piece in self.fs.cat_ranges([self.key(path)] * len(starts), starts, stops, on_error="raise")
            ]
        except Exception as error:
            raise storage_error("cannot read a file", self.join(path), error) from error

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one; whether it was written. Atomic in a store with conditional puts."""
        if self.exists(path):  # for stores that ignore the condition
            return False
        try:
            self.fs.pipe_file(self.key(path), data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if self.exists(path):  # S3 tells a lost race as a failed precondition
                return False
            raise storage_error("cannot write a file", self.join(path), error) from error
        return True

    def remove(self, path: str) -> None:
        """Remove a file; no error if there is none."""
        try:
            persistently(lambda: self.fs.rm_file(self.key(path)))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise storage_error("cannot remove a file", self.join(path), error) from error

    def files(self, folder: str = "") -> list[str]:
        """Paths of all files below ``folder``, relative to the root, sorted."""
        try:
            found = persistently(lambda: self.fs.find(self.key(folder)))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise storage_error("cannot list a folder", self.join(folder), error) from error
        start = len(self.base.strip("/")) + 1
        return sorted(name.strip("/")[start:] for name in found)

    def entries(self) -> list[str]:
        """Names directly under the root, sorted; see :meth:`Root.entries`."""
        try:
            found = persistently(lambda: self.fs.ls(self.base, detail=False))
        except FileNotFoundError:
            return []
        except Exception as error:
            raise storage_error("cannot list a folder", self.url, error) from error
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        key = self.key(path)
        with tempfile.NamedTemporaryFile() as spool:  # a store wants the whole object, and memory may not hold it
            try:
                for piece in pieces:
                    spool.write(piece)
                spool.flush()
            except OSError as error:
                raise storage_error("cannot spool a file for upload", spool.name, error) from error
            parent, _, name = key.rpartition("/")
            landing = key if self._puts_are_atomic else f"{parent}/{temporary_name(name)}"
            try:
                if landing != key:  # object stores need no folders, and s3fs would make a mistyped bucket
                    self.fs.makedirs(parent, exist_ok=True)
                persistently(lambda: self.fs.put_file(spool.name, landing))
                if landing != key:
                    self.fs.mv(landing, key)
            except Exception as error:
                if landing != key and self.fs.exists(landing):
                    self.fs.rm_file(landing)
                raise storage_error("cannot write a file", self.join(path), error) from error

    def _clone(self, source: Root, source_path: str, path: str) -> bool:
        if not (isinstance(source, RemoteRoot) and source.fs == self.fs and self._puts_are_atomic):
            return False
        try:
            persistently(lambda: self.fs.cp_file(source.key(source_path), self.key(path)))
        except Exception as error:
            raise storage_error("cannot copy a file", self.join(path), error) from error
        return True
