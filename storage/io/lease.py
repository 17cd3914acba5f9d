"""The lease on an output: one run at a time writes there, and one that was killed does not block the next for long.

On a local folder it is a lock that the kernel takes back with the process (``flock``). In an object store it is an
object created only if absent, with a sign of life every few seconds; a holder whose signs stop is dead, and its lease
is taken over. The run holds the lease for all its workers: whoever writes shards for it does not ask. Should two runs
meet in spite of it (a store that ignores conditional writes, a holder that slept for minutes), both write the same
bytes whole, and the one that lost the lease stops at its next shard (:meth:`Lease.check`).
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
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.io.filesystem import LocalRoot, Root, storage_error
from image_longitudinal.storage.io.remote import RemoteRoot

BEAT = 10.0  # seconds between signs of life: a request every so often costs nothing
DEAD_AFTER = 3 * BEAT  # seconds without one: two may be lost on the way
SETTLE = 2.0  # seconds after taking over until we look whether somebody else did so at the same moment


class Lease(ABC):
    """The right to write to a root."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            StorageError: if it was removed or taken over.
        """

    @abstractmethod
    def release(self) -> None:
        """Give it back; nothing of it stays in the root."""


@contextlib.contextmanager
def hold_lease(root: Root, say: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold the lease on a root for the length of a block.

    Args:
        root: where the run writes.
        say: told when it takes a while, and why.

    Raises:
        StorageError: if another run holds it: who, and what to do.
    """
    lease: Lease = _Lock(root) if isinstance(root, LocalRoot) else _Beating(root, say)
    try:
        yield lease
    finally:
        lease.release()


class _Lock(Lease):
    """A local lock; children made by fork share it, so an orphan that might still write keeps it."""

    def __init__(self, root: LocalRoot) -> None:
        self.root, self.path = root, root.folder / LEASE
        self.made_folder = not root.folder.exists()
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error("cannot make the output folder", str(root.folder), error) from error
            try:
                self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue  # a holder that was refused its run removed the folder it had made
            except OSError as error:
                raise storage_error("cannot lock the output", str(self.path), error) from error
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_in_place():
                    break
                os.close(self.file)  # the holder removed it between our opening and locking
            except BlockingIOError as error:
                holder = _parse(os.pread(self.file, 4096, 0))
                os.close(self.file)
                raise _busy(root, holder) from error
            except OSError as error:
                os.close(self.file)
                raise StorageError(
                    "cannot lock the output",
                    where=self.path,
                    got=error,
                    do="choose an output on a file system with locks (Lustre: mounted with flock) or an object store",
                ) from error
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, _mark("", 0), 0)

    def check(self) -> None:
        """See :meth:`Lease.check`."""
        if not self._is_in_place():
            raise _lost(self.root, "its lock file was removed")

    def release(self) -> None:
        """See :meth:`Lease.release`."""
        if self._is_in_place():
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self.made_folder:
                    self.path.parent.rmdir()  # only where nothing came of the run: else it is not empty
        os.close(self.file)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except OSError:
            return False


class _Beating(Lease):
    """An object with a sign of life; see the module's beginning."""

    def __init__(self, root: Root, say: Callable[[str], None]) -> None:
        self.root, self.token, self.beats = root, secrets.token_hex(8), 0
        self.lost: str | None = None
        self._stop = threading.Event()
        while not self._create():
            if (seen := self._read()) is None:
                continue  # given back between our two requests
            if not _is_dead_here(seen):
                holder = f"process {seen.get('pid')} on {seen.get('host')}"
                say(f"{root.url} is or was written to by {holder}: seeing for {DEAD_AFTER:.0f} s whether it is alive")
                self._wait_for_death(seen)
            self._take_over()
            break
        if (seen := self._read()) is None or seen.get("token") != self.token:
            raise _busy(root, seen or {})  # a store without conditional writes, and somebody a moment later
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See :meth:`Lease.check`."""
        if self.lost:
            raise _lost(self.root, self.lost)

    def release(self) -> None:
        """See :meth:`Lease.release`."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # a store that is gone: the lease dies by itself
            if (seen := self._read()) and seen.get("token") == self.token:
                self.root.remove(LEASE)

    def _create(self) -> bool:
        assert isinstance(self.root, RemoteRoot)
        return self.root.create(LEASE, _mark(self.token, self.beats))

    def _read(self) -> dict[str, Any] | None:
        return _parse(self.root.read_bytes(LEASE)) if self.root.exists(LEASE) else None

    def _wait_for_death(self, seen: dict[str, Any]) -> None:
        """Return when the holder gave no sign of life for long enough; no clock but ours is asked."""
        last = time.monotonic()
        while time.monotonic() - last < DEAD_AFTER:
            time.sleep(BEAT / 4)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise _busy(self.root, now)

    def _take_over(self) -> None:
        self.root.write_bytes(LEASE, _mark(self.token, self.beats))
        time.sleep(SETTLE)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                seen = self._read()
                if seen is None or seen.get("token") != self.token:
                    self.lost = "it was removed" if seen is None else f"{_who(seen)} took it over"
                    return
                self.beats += 1
                self.root.write_bytes(LEASE, _mark(self.token, self.beats))
            except StorageError:
                continue  # out of reach for now: the next sign may pass, and who needs the store hears of it anyway


def _mark(token: str, beats: int) -> bytes:
    """What a lease says about its holder, and its sign of life."""
    return json.dumps(
        {
            "token": token,
            "beats": beats,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "since": _BEGAN,
        }
    ).encode()


_BEGAN = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        mark = json.loads(data)
    except ValueError:  # half a moment old, or not ours
        return {}
    return mark if isinstance(mark, dict) else {}


def _machine() -> str | None:
    """This boot of this machine and its process numbers, where the system tells: only there can a pid be looked up."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_dead_here(mark: dict[str, Any]) -> bool:
    """Whether the holder was a process of this very machine that is no more."""
    if not isinstance(mark.get("pid"), int) or mark.get("machine") != _machine() or _machine() is None:
        return False
    try:
        os.kill(mark["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _who(mark: dict[str, Any]) -> str:
    if not mark:
        return "another process"
    return f"process {mark.get('pid')} on {mark.get('host')}, running since {mark.get('since')}"


def _busy(root: Root, mark: dict[str, Any]) -> StorageError:
    return StorageError(
        "another run is writing to this output",
        where=root.url,
        got=_who(mark),
        do="let it finish or stop it, then give the same command again: what is done is kept",
    )


def _lost(root: Root, how: str) -> StorageError:
    return StorageError(
        "this run no longer holds its output",
        where=root.url,
        got=how,
        do="see that one run alone writes there, then give the same command again: what is done is kept",
    )
