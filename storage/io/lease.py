"""The lease on an output: one run at a time writes to a root, and a killed run does not block the next for long.

On a local folder it is a file lock (``flock``), which the kernel releases with the process. In an object store it is an
object that is created only if absent and renewed every few seconds; a lease that is not renewed is expired and can be
taken over. The run holds the lease for all its workers. If two runs write in spite of it (a store that ignores
conditional writes, a holder that was suspended for minutes), both write the same bytes in whole files, and the run that
lost the lease stops at its next shard (:meth:`Lease.check`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root, storage_errors

RENEWAL = 10.0  # seconds between renewals: one small request each
EXPIRY = 3 * RENEWAL  # seconds without a renewal: two may be lost
SETTLE = 2.0  # seconds after a takeover until we check that no other run took over at the same moment


class Lease(ABC):
    """The right to write to a root."""

    @abstractmethod
    def check(self) -> None:
        """Raise StorageError if the lease was removed or taken over."""

    @abstractmethod
    def release(self) -> None:
        """Give the lease back and remove its file."""


@contextlib.contextmanager
def hold_lease(root: Root, report: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold the lease on a root during the body.

    Args:
        root: where the run writes.
        report: receives a message when the lease of another run must expire first.

    Raises:
        StorageError: another run holds it; says which and what to do.
    """
    lease = _RenewedLease(root, report) if isinstance(root, RemoteRoot) else _FileLease(root)
    try:
        yield lease
    finally:
        lease.release()


class _FileLease(Lease):
    """A local lock. Forked children share it, so a worker that outlives its run keeps the output locked."""

    def __init__(self, root: Root) -> None:
        assert isinstance(root, LocalRoot)
        self.root, self.path = root, root.folder / LEASE
        self.created_folder = not root.folder.exists()
        while True:
            with storage_errors("cannot make the output folder", root.url):
                root.folder.mkdir(parents=True, exist_ok=True)
            with storage_errors("cannot lock the output", str(self.path)):
                try:
                    self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except FileNotFoundError:
                    continue  # the last holder removed the folder that it had created
            self._lock()
            if self._is_in_place():
                break
            os.close(self.file)  # the last holder removed it between our opening and locking
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, _content("").encode(), 0)

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self.file, 4096, 0)
            os.close(self.file)
            if isinstance(error, BlockingIOError):
                raise _busy(self.root, holder) from error
            do = "choose an output on a file system with locks (Lustre: mounted with flock) or an object store"
            raise StorageError("cannot lock the output", where=self.path, got=error, do=do) from error

    def check(self) -> None:
        if not self._is_in_place():
            raise _lost(self.root, "its lock file was removed")

    def release(self) -> None:
        if self._is_in_place():
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self.created_folder:
                    self.root.folder.rmdir()  # fails, as it should, unless the run wrote nothing
        os.close(self.file)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except OSError:
            return False


class _RenewedLease(Lease):
    """An object that names its holder and is written again at every renewal."""

    def __init__(self, root: RemoteRoot, report: Callable[[str], None]) -> None:
        self.root, self.token, self.lost = root, secrets.token_hex(8), ""
        if not root.create(LEASE, self._renewal()):
            self._await_expiry(report)
            root.write_bytes(LEASE, self._renewal())
            time.sleep(SETTLE)
        if not self._is_ours(content := self._read()):
            raise _busy(root, content)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self.lost:
            raise _lost(self.root, self.lost)

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # the store cannot be reached: the lease expires
            if self._is_ours(self._read()):
                self.root.remove(LEASE)

    def _renewal(self) -> bytes:
        return _content(self.token, renewal=secrets.token_hex(4)).encode()

    def _read(self) -> bytes:
        return self.root.read_bytes(LEASE) if self.root.exists(LEASE) else b""

    def _is_ours(self, content: bytes) -> bool:
        return self.token.encode() in content

    def _await_expiry(self, report: Callable[[str], None]) -> None:
        """Return when the holder has not renewed for long enough, by our own clock."""
        seen, start = self._read(), time.monotonic()
        if seen:
            report(f"{self.root.url} may be in use by {_holder(seen)}: waiting {EXPIRY:.0f} s for a sign of life")
        while seen and time.monotonic() - start < EXPIRY:
            time.sleep(RENEWAL / 4)
            now = self._read()
            if now and now != seen:
                raise _busy(self.root, now)
            seen = now

    def _renew(self) -> None:
        while not self._stop.wait(RENEWAL):
            with contextlib.suppress(StorageError):  # out of reach: the next renewal may succeed
                if not self._is_ours(content := self._read()):
                    self.lost = f"{_holder(content)} took it over" if content else "it was removed"
                    return
                self.root.write_bytes(LEASE, self._renewal())


def _content(token: str, **more: str) -> str:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _STARTED}
    return json.dumps({"token": token, **holder, **more})


_STARTED = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}, running since {holder['since']}"
    except (ValueError, TypeError, KeyError):  # half written, or not ours
        return "another process"


def _busy(root: Root, content: bytes) -> StorageError:
    do = "let it finish or stop it, then run the same command again: finished shards are kept"
    return StorageError("another run is writing to this output", where=root.url, got=_holder(content), do=do)


def _lost(root: Root, how: str) -> StorageError:
    do = "make sure that only one run writes there, then run the same command again: finished shards are kept"
    return StorageError("this run no longer holds its output", where=root.url, got=how, do=do)
