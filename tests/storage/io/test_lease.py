"""One run at a time writes to an output; a killed one is recognised, a living one is named."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io import lease
from image_longitudinal.storage.io.lease import HeldByThisRunError, hold_lease
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import write_dataset


@pytest.fixture
def output(store: Root, monkeypatch: pytest.MonkeyPatch) -> Root:
    for name, seconds in (("RENEWAL", 0.1), ("EXPIRY", 1.5), ("SETTLE", 0.02)):  # shorter by a factor of 100
        monkeypatch.setattr(lease, name, seconds)
    return store


@contextlib.contextmanager
def process(work: Callable[[], object]) -> Iterator[int]:
    """A forked child that has done ``work`` and then sleeps; killed at the end of the block if it still lives."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        kept = work()  # held on to: what it owns must not be collected
        os.write(writing, b"." if kept is not None else b"?")
        time.sleep(60)
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"."
    os.close(reading)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def take(root: Root) -> object:
    held = hold_lease(root)
    held.__enter__()
    return held


def test_a_second_run_is_refused_while_the_first_lives_and_let_in_afterwards(output: Root) -> None:
    with hold_lease(output) as held:
        for _ in range(2):
            with pytest.raises(StorageError, match=rf"another run is writing.*process {os.getpid()} on .*same command"):
                take(output)
        held.check()
    assert output.files() == []
    with hold_lease(output):
        pass
    assert output.files() == []


def test_another_attempt_of_one_run_is_told_from_another_run(output: Root) -> None:
    with hold_lease(output, run="a"):
        with pytest.raises(HeldByThisRunError, match="another attempt of this run is at work"):
            hold_lease(output, run="a").__enter__()
        for other in ("b", ""):
            with pytest.raises(StorageError, match="another run is writing") as refused:
                hold_lease(output, run=other).__enter__()
            assert not isinstance(refused.value, HeldByThisRunError)


def test_a_lease_is_no_part_of_the_data_set(output: Root) -> None:
    with hold_lease(output):
        write_dataset(output)  # workers of the run need no lease
        assert verify_dataset(output).ok
    assert verify_dataset(output).ok


def test_a_killed_run_leaves_a_local_lock_that_holds_nobody_up(tmp_path: Path) -> None:
    root = LocalRoot(tmp_path)
    with process(lambda: take(root)) as child:
        with pytest.raises(StorageError, match=f"process {child} on {socket.gethostname()}, running since 20"):
            take(root)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert root.files() == [LEASE]
        with hold_lease(root) as held:
            held.check()
    assert root.files() == []


def test_an_orphaned_worker_of_a_killed_run_keeps_the_output(tmp_path: Path) -> None:
    root = LocalRoot(tmp_path)

    def run_with_a_worker() -> object:
        held = take(root)
        if os.fork() == 0:
            time.sleep(1.0)
            os._exit(0)
        return held

    with process(run_with_a_worker) as child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with pytest.raises(StorageError, match="another run is writing"):
            take(root)
        patience = time.monotonic() + 20
        while time.monotonic() < patience:
            with contextlib.suppress(StorageError), hold_lease(root):
                return
            time.sleep(0.1)
    pytest.fail("the lock outlived its last process")


def foreign_lease(root: Root, host: str = "node7") -> None:
    """The lease of a run elsewhere that does not renew it."""
    root.write_bytes(LEASE, json.dumps({"token": "other", "host": host, "pid": 17, "since": "2026"}).encode())


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_the_lease_of_a_dead_run_is_taken_over_once_it_expired(output: Root) -> None:
    reports: list[str] = []
    foreign_lease(output)
    with hold_lease(output, reports.append) as held:
        held.check()
    assert "process 17 on node7, running since 2026: waiting" in reports[0]
    assert output.files() == []
    output.write_bytes(LEASE, b"{torn")
    with hold_lease(output, reports.append):
        pass
    assert output.files() == []


def test_a_run_that_lost_its_lease_notices_and_leaves_a_new_one_alone(output: Root) -> None:
    losses = {True: r"process \d+ on node7.* took it over", False: "was removed"}
    for taken in (False,) if isinstance(output, LocalRoot) else (False, True):
        with hold_lease(output) as held:
            foreign_lease(output) if taken else output.remove(LEASE)
            patience = time.monotonic() + 20
            while not held.loss() and time.monotonic() < patience:
                time.sleep(0.05)
            with pytest.raises(StorageError, match=rf"no longer holds its output.*{losses[taken]}"):
                held.check()
        assert output.exists(LEASE) is taken
        output.remove(LEASE)


def test_an_output_that_cannot_be_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError, match="Choose an output that is a folder"):
        take(LocalRoot(tmp_path / "file"))
    if Path("/proc/self").exists():  # a folder where nobody can make another: Linux's /proc
        with pytest.raises(StorageError, match="cannot make the output folder"):
            take(LocalRoot(Path("/proc/x/y")))
    monkeypatch.setattr(lease.fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="file system with locks"):
        take(LocalRoot(tmp_path / "data"))
