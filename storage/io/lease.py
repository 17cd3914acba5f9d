"""The lease on an output: one run at a time writes to a root, and a killed run does not block the next for long.

On a local folder it is a file lock (``flock``), which the kernel releases with the process. In an object store it is an
object that is created only if absent and renewed every few seconds; one that is not renewed expires and is taken over.
The run holds the lease for all its workers. If two runs write in spite of it (a store that ignores conditional writes,
a holder that was suspended for minutes), both write the same bytes in whole files, and the run that lost the lease
stops at its next shard (:meth:`Lease.check`).
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import make_folder
from image_longitudinal.core.paths import open_plain
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root, storage_errors

RENEWAL = 10.0  # seconds between renewals: one small request each
EXPIRY = 3 * RENEWAL  # seconds without a renewal: two may be lost
SETTLE = 2.0  # seconds after a takeover until we check that no other run took over at the same moment
_held: list[Callable[[], None]] = []  # release the leases of this process
_STARTED = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


class HeldByThisRunError(StorageError):
    """Another attempt of the same run holds the output: it was started again although it lives."""


@dataclass(frozen=True)
class Lease:
    """The right to write to a root; ``loss`` says how it was lost, or nothing."""

    root: Root
    loss: Callable[[], str]

    def check(self) -> None:
        """Raise StorageError if the lease was removed or taken over."""
        if loss := self.loss():
            do = "make sure that only one run writes there, then run the same command again: finished shards are kept"
            raise StorageError("this run no longer holds its output", where=self.root.url, got=loss, do=do)


@contextlib.contextmanager
def hold_lease(root: Root, report: Callable[[str], None] = lambda _: None, run: str = "") -> Iterator[Lease]:
    """Hold the lease on a root during the body; afterwards its file is gone.

    Args:
        root: where the run writes.
        report: receives a message when the lease of another run must expire first.
        run: what all attempts of one run have in common, if anything.

    Raises:
        HeldByThisRunError: another attempt of this run holds it.
        StorageError: another run holds it; says which and what to do.
    """
    if isinstance(root, RemoteRoot):
        with _renewed_object(root, report, run) as lease:
            yield lease
        return
    assert isinstance(root, LocalRoot)
    path = root.folder / LEASE
    created = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    file = _lock(root, path, run)  # forked children share it: a worker that outlives its run keeps the output locked

    def release() -> None:
        if _is_open_at(path, file):
            with contextlib.suppress(OSError):
                path.unlink()
                for folder in created:
                    folder.rmdir()  # fails, as it should, unless the run wrote nothing

    try:
        with _listed(release):
            yield Lease(root, lambda: "" if _is_open_at(path, file) else "its lock file was removed")
    finally:
        os.close(file)


def release_all() -> None:
    """Release what this process holds, if it is about to end without leaving the bodies of :func:`hold_lease`."""
    for release in tuple(_held):
        release()


@contextlib.contextmanager
def _listed(release: Callable[[], None]) -> Iterator[None]:
    """Release a lease after the body, or earlier by :func:`release_all`."""
    _held.append(release)
    try:
        yield
    finally:
        _held.remove(release)
        release()


def _lock(root: LocalRoot, path: Path, run: str) -> int:
    while True:
        with storage_errors("cannot make the output folder", root.url):
            make_folder(root.folder)
        with storage_errors("cannot lock the output", str(path)):
            try:
                file = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue  # the last holder removed the folder that it had created
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            content = os.pread(file, 4096, 0)
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise _busy(root, content, run) from error
            do = "choose an output on a file system with locks (Lustre: mounted with flock) or an object store"
            raise StorageError("cannot lock the output", where=path, got=error, do=do) from error
        if _is_open_at(path, file):
            if os.fstat(file).st_nlink > 1:  # the content of another name would be overwritten
                os.close(file)
                raise StorageError("the lock file has a second name", where=path, do="remove it")
            os.ftruncate(file, 0)
            os.pwrite(file, _content(run=run), 0)
            return file
        os.close(file)  # the last holder removed it between our opening and locking


def _is_open_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except OSError:
        return False


@contextlib.contextmanager
def _renewed_object(root: RemoteRoot, report: Callable[[str], None], run: str) -> Iterator[Lease]:
    """An object that names its holder by a token and is written again at every renewal."""
    shown, root = root, root.impatient()
    token, stop, losses = secrets.token_hex(8), threading.Event(), list[str]()

    def renew() -> None:
        while not stop.wait(RENEWAL):
            with contextlib.suppress(StorageError):  # out of reach: the next renewal may succeed
                content = _read(root)
                if token.encode() not in content:
                    losses.append(f"{_holder(content)} took it over" if content else "it was removed")
                    return
                root.write_bytes(LEASE, _content(token, run))

    if not root.create(LEASE, _content(token, run)):
        _await_expiry(root, report, run)
        root.write_bytes(LEASE, _content(token, run))
        time.sleep(SETTLE)
    if token.encode() not in (content := _read(root)):
        raise _busy(root, content, run)
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()

    def release() -> None:
        stop.set()
        thread.join()
        with contextlib.suppress(StorageError):  # out of reach: the lease expires
            if token.encode() in _read(root):
                root.remove(LEASE)

    with _listed(release):
        yield Lease(shown, lambda: "".join(losses))


def _await_expiry(root: RemoteRoot, report: Callable[[str], None], run: str) -> None:
    """Return when the holder has not renewed for long enough by our own clock; StorageError if it renews."""
    seen, end = _read(root), time.monotonic() + EXPIRY
    if seen:
        report(f"{root.url} may be in use by {_holder(seen)}: waiting {EXPIRY:.0f} s for a sign of life")
    while seen and time.monotonic() < end:
        time.sleep(RENEWAL / 4)
        if (now := _read(root)) not in (b"", seen):
            raise _busy(root, now, run)
        seen = now


def _read(root: RemoteRoot) -> bytes:
    return root.read_bytes(LEASE) if root.exists(LEASE) else b""


def _content(token: str = "", run: str = "") -> bytes:
    holder = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "since": _STARTED, "run": run}
    return json.dumps(holder | {"renewal": secrets.token_hex(4)}).encode()  # every renewal differs


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}, running since {holder['since']}"
    except (ValueError, TypeError, KeyError):  # half written, or not ours
        return "another process"


def _busy(root: Root, content: bytes, run: str) -> StorageError:
    if run and f'"run": "{run}"'.encode() in content:
        return HeldByThisRunError("another attempt of this run is at work", where=root.url, got=_holder(content))
    do = "let it finish or stop it, then run the same command again: finished shards are kept"
    return StorageError("another run is writing to this output", where=root.url, got=_holder(content), do=do)
