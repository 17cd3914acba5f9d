"""A root in an object store or any other fsspec file system; credentials come from the environment, or from options.

Failed requests are repeated after a pause, in addition to what the store's driver does: a store that throttles, or is
gone for a minute, does not stop a run of hours. One that has not answered yet gets seconds: its address may be wrong.
"""

# ruff: noqa: D102 - the methods are documented in Root

import base64
import contextlib
import copy
import hashlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import fsspec

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import temporary_name
from image_longitudinal.core.secrets import hidden, revealed, safe_cause
from image_longitudinal.storage.io.root import Root, storage_error, storage_errors
from image_longitudinal.storage.io.schemes import check_scheme, driver_advice

OBJECT_STORES = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"}  # a put is atomic
PART = 64 << 20  # bytes of one part of an upload; s3fs sends objects below two parts in one request
REQUEST = 8 << 20  # bytes per request when a whole object is read: long beside a round trip
PAUSES = (1.0, 4.0)  # seconds before another attempt; drivers of object stores have backed off for a while already
# Further ones, for a store that has answered: a minute at least, two on average.
OUTAGE_PAUSES = (10.0, 20.0, 40.0, 60.0)
# Errors that another attempt would repeat; drivers raise NotImplementedError for what their store cannot do at all.
PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError,
             NotImplementedError, ImportError)  # fmt: skip

T = TypeVar("T")
log = logging.getLogger("image_longitudinal.storage")


def with_retries(action: Callable[[], T], where: str = "", patient: bool = False) -> T:
    """The result of ``action``, repeated when it fails for a reason that may pass.

    Args:
        action: one request.
        where: the store, for the log.
        patient: wait for minutes, and say so in the log.
    """
    for number, pause in enumerate((*PAUSES, *(OUTAGE_PAUSES if patient else ()))):
        try:
            return action()
        except PERMANENT:
            raise
        except Exception as error:  # drivers raise errors of any type
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - so that many workers do not retry at once
            if number >= len(PAUSES):
                log.warning(f"{where} does not answer ({hidden(str(error))}); the next attempt in {wait:.0f} s")
            time.sleep(wait)
    return action()


class RemoteRoot(Root):
    """A folder of any other fsspec file system; ``options`` are those of its driver, such as ``anon``."""

    def __init__(self, url: str, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(hidden(revealed(url).rstrip("/")))
        check_scheme(self.url)
        self.options = dict(options)
        try:
            self._fs, base = self._opened()
        except (ImportError, ValueError) as error:
            raise StorageError(
                "cannot open a store", where=self.url, got=error, do=driver_advice(self.url)
            ) from safe_cause(error)
        except Exception as error:  # drivers that connect at once raise errors of any type
            raise storage_error("cannot open a store", self.url, error) from safe_cause(error)
        self._process = os.getpid()
        self._is_patient, self._has_answered = True, False
        self.base = base.rstrip("/")
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self._puts_are_atomic = bool(OBJECT_STORES.intersection(protocols))
        self._is_s3 = bool({"s3", "s3a"}.intersection(protocols))

    @property
    def fs(self) -> Any:
        """The file system; opened again in a forked process, such as a data loader's worker, because connections do
        not survive a fork.
        """
        if self._process != os.getpid():
            self._fs, _ = self._opened()
            self._process = os.getpid()
        return self._fs

    def _opened(self) -> tuple[Any, str]:
        """The file system, and this folder's path in it."""
        found: tuple[Any, str] = fsspec.core.url_to_fs(revealed(self.url), use_listings_cache=False, **self.options)
        return found

    @property
    def filesystem(self) -> tuple[Any, str]:
        return self.fs, self.base

    def impatient(self) -> "RemoteRoot":
        """The same root for requests that must succeed within seconds or fail: those of a lease."""
        root = copy.copy(self)
        root._is_patient = False
        return root

    def _repeated(self, action: Callable[[], T]) -> T:
        """The result of a request (:func:`with_retries`)."""
        try:
            result = with_retries(action, self.url, patient=self._is_patient and self._has_answered)
        except FileNotFoundError:
            self._has_answered = True
            raise
        self._has_answered = True
        return result

    def key(self, path: str) -> str:
        """The name of ``path`` in its file system."""
        return f"{self.base}/{path}" if path else self.base

    def size(self, path: str) -> int | None:
        with self._errors("cannot look up a file", path):
            try:
                info = self._repeated(lambda: self.fs.info(self.key(path)))
            except FileNotFoundError:
                return None
            return int(info["size"]) if info["type"] == "file" else None

    def blocks(self, path: str) -> Iterator[bytes]:
        with self._errors("cannot read a file", path):
            size = int(self._repeated(lambda: self.fs.info(self.key(path)))["size"])
            for start in range(0, size, REQUEST):
                block = self._range(path, start, min(start + REQUEST, size))
                if len(block) != min(REQUEST, size - start):
                    raise OSError(f"the file ended early, {start + len(block)} of {size} bytes")
                yield block

    def vouched_sha256(self, path: str) -> str | None:
        if not self._is_s3:
            return None
        bucket, key, _ = self.fs.split_path(self.key(path))
        with self._errors("cannot look up a file", path):
            # A store without a SHA-256 of the whole object leaves the field out, or says COMPOSITE: one of its parts.
            head = self._repeated(
                lambda: self.fs.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            )
        if head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT" or "-" in head.get("ChecksumSHA256", "-"):
            return None
        return base64.b64decode(head["ChecksumSHA256"]).hex()

    def read_tail(self, path: str, size: int) -> bytes:
        with self._errors("cannot read a file", path):
            return self._range(path, -size, None)

    def _range(self, path: str, start: int, stop: int | None) -> bytes:
        return bytes(self._repeated(lambda: self.fs.cat_file(self.key(path), start=start, end=stop)))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with self._errors("cannot read a file", path):
            keys = [self.key(path)] * len(ranges)
            found = self._repeated(lambda: self.fs.cat_ranges(keys, starts, stops, on_error="raise"))
            return [bytes(piece) for piece in found]

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless it exists; whether it was written. Atomic in a store with conditional puts."""
        if self.exists(path):  # for stores that ignore the condition
            return False
        with self._errors("cannot write a file", path):
            try:
                self.fs.pipe_file(self.key(path), data, mode="create")
            except Exception as error:
                if isinstance(error, FileExistsError) or self.exists(path):  # S3: a failed precondition
                    return False
                raise
        return True

    def remove(self, path: str) -> None:
        with self._errors("cannot remove a file", path), contextlib.suppress(FileNotFoundError):
            self._repeated(lambda: self.fs.rm_file(self.key(path)))

    def files(self, folder: str = "") -> list[str]:
        with self._errors("cannot list a folder", folder):
            try:
                found = self._repeated(lambda: self.fs.find(self.key(folder)))
            except FileNotFoundError:
                return []
        start = len(self.base.strip("/")) + 1
        return sorted(name.strip("/")[start:] for name in found)

    def entries(self) -> list[str]:
        with self._errors("cannot list a folder"):
            try:
                found = self._repeated(lambda: self.fs.ls(self.base, detail=False))
            except FileNotFoundError:
                return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        key, digest = self.key(path), hashlib.sha256()
        with tempfile.NamedTemporaryFile() as spool:  # a store needs the whole object, which may not fit in memory
            with storage_errors("cannot spool a file for upload", spool.name):
                for piece in pieces:
                    digest.update(piece)
                    spool.write(piece)
                spool.flush()
                size = spool.tell()
            with self._errors("cannot write a file", path):
                if self._puts_are_atomic:  # needs no folders, and s3fs would create a mistyped bucket
                    checksum = self._checksum(size, digest.digest())
                    self._repeated(lambda: self.fs.put_file(spool.name, key, **checksum))
                else:
                    self._put_and_rename(spool.name, key)

    def _checksum(self, size: int, sha256: bytes) -> dict[str, Any]:
        """What makes S3 refuse a body that is not what we wrote, and keep its SHA-256 (:meth:`vouched_sha256`).

        Larger objects go up in parts, each with the checksum that botocore adds (CRC32).
        """
        if not self._is_s3 or size >= 2 * PART:
            return {}
        encoded = base64.b64encode(sha256).decode()
        return {"chunksize": PART, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": encoded}

    def _put_and_rename(self, source: str, key: str) -> None:
        parent, _, name = key.rpartition("/")
        temporary = f"{parent}/{temporary_name(name)}"
        try:
            self.fs.makedirs(parent, exist_ok=True)
            self._repeated(lambda: self.fs.put_file(source, temporary))
            self.fs.mv(temporary, key)
        except Exception:
            if self.fs.exists(temporary):
                self.fs.rm_file(temporary)
            raise

    def _clone(self, source: Root, source_path: str, path: str) -> bool:
        if not (isinstance(source, RemoteRoot) and source.fs == self.fs and self._puts_are_atomic):
            return False
        with self._errors("cannot copy a file", path):
            self._repeated(lambda: self.fs.cp_file(source.key(source_path), self.key(path)))
        return True

    def _errors(self, what: str, path: str = "") -> contextlib.AbstractContextManager[None]:
        return storage_errors(what, self.join(path), Exception)  # drivers raise errors of any type
