"""A run killed or out of disk at any point: nothing incomplete counts as done, and a rerun makes what is missing.

The run is the storage side of the flow (``resume`` in conftest). It is killed at 200 lines of code chosen at random
among all that it executes in ``storage/`` and ``core/files.py``, by the clock as well, and the disk fills at any step.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from image_longitudinal import storage
from image_longitudinal.core import files
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset.layout import LEASE, ROOT_MANIFEST, RUN_FILE
from image_longitudinal.storage.dataset.manifest import is_published, part_is_intact, read_shard_manifest
from image_longitudinal.storage.dataset.run_claim import check_same_dataset
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import IDENTITY, Arrays, arrays, digests, exit_status, in_child, resume

Folders = Callable[[], LocalRoot]
Reference = dict[str, str]
PLAN = ShardPlan(n_subjects=5, shard_size=2, test_fraction=0.2)
KILLED = 9
TRACED = (str(Path(storage.__path__[0])), files.__file__)  # whose lines a run is killed at


@pytest.fixture(scope="module")
def data() -> Arrays:
    return arrays(PLAN)


@pytest.fixture
def folders() -> Iterator[Folders]:
    """Fresh roots; in memory where there is such a folder, since a kill, unlike a power cut, does not ask for fsync."""
    base = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    numbers = iter(range(10**6))
    yield lambda: LocalRoot(Path(base) / f"{next(numbers)}")
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Arrays) -> Reference:
    """Digests of an uninterrupted run."""
    root = LocalRoot(tmp_path_factory.mktemp("reference"))
    assert resume(root, data, PLAN) == [0, 1, 2]
    return digests(root)


def check_and_finish(root: Root, data: Arrays, reference: Reference, plan: ShardPlan = PLAN) -> None:
    """Every file is whole, what counts as done is done, and the same run ends as if it had never stopped."""
    there = digests(root)
    for path, digest in there.items():
        assert path == LEASE or is_temporary(path) or digest == reference[path], f"{path} is torn"
    done = []
    for shard in plan:
        if manifest := read_shard_manifest(root, shard.index):
            assert all(part_is_intact(root, part, rehash=True) for part in manifest.parts.values())
            done.append(shard.index)
    assert not is_published(root) or len(done) == plan.n_shards
    made = resume(root, data, plan)
    assert made == [shard.index for shard in plan if shard.index not in done]
    assert digests(root) == reference


def traced(work: Callable[[], object], at: Callable[[int], None]) -> None:
    """Run ``work``, calling ``at`` with a running number before each line of the storage package."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            at(count)
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename.startswith(TRACED) else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)


@pytest.mark.operations
def test_killed_at_200_random_lines(folders: Folders, data: Arrays, reference: Reference) -> None:
    lines = 0

    def count(number: int) -> None:
        nonlocal lines
        lines = number

    whole = folders()  # outside: opening a root executes lines that the runs below do not
    traced(lambda: resume(whole, data, PLAN), count)
    chosen = random.Random(20241).sample(range(1, lines + 1), 200)
    published_early = 0
    for fatal in chosen:
        root = folders()

        def die(number: int, fatal: int = fatal) -> None:
            if number == fatal:
                os._exit(KILLED)

        assert exit_status(in_child(lambda root=root, die=die: traced(lambda: resume(root, data, PLAN), die))) == KILLED
        published_early += is_published(root)
        check_and_finish(root, data, reference)
        shutil.rmtree(root.folder)
    assert published_early < 20  # else the kills would hardly test anything


def test_killed_by_the_clock_and_again(folders: Folders, data: Arrays, reference: Reference) -> None:
    """SIGKILL at any instant, in system calls and libraries too; reruns are killed as well, until one gets through."""
    moments, began = random.Random(5), time.monotonic()
    exit_status(in_child(lambda: resume(folders(), data, PLAN)))
    length, kills = time.monotonic() - began, 0
    while kills < 30:
        root, status = folders(), -signal.SIGKILL
        while status == -signal.SIGKILL:
            child = in_child(lambda root=root: resume(root, data, PLAN))
            time.sleep(moments.uniform(0, 1.2) * length)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            status = exit_status(child)
            kills += status == -signal.SIGKILL
            if root.folder.exists() and not is_published(root):
                assert check_same_dataset(root, IDENTITY) in ("new", "unfinished")
        assert status == 0
        check_and_finish(root, data, reference)


def test_a_disk_that_fills_at_any_system_call_or_piece(
    folders: Folders, data: Arrays, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(reference)
    steps = [(os, "replace", n), (os, "fsync", 2 * n), (files, "_start_writeback", n)]  # fsync: of file and folder
    for module, step, fatal in [(module, step, i) for module, step, count in steps for i in range(0, count, 3)]:
        root, calls, real = folders(), itertools.count(), getattr(module, step)

        def fail(*arguments: object, fatal: int = fatal, calls: Iterator[int] = calls, real: Any = real) -> None:
            if next(calls) == fatal:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, step, fail)
            done = r"cannot (write a file|make the output folder).*No space left.*Free some space"
            with pytest.raises(StorageError, match=done):
                resume(root, data, PLAN)
        assert not any(is_temporary(path) for path in root.files())
        assert LEASE not in root.files()
        check_and_finish(root, data, reference)


def test_a_file_that_vanished_or_shrank_is_made_again(folders: Folders, data: Arrays, reference: Reference) -> None:
    root = folders()
    resume(root, data, PLAN)
    for path in sorted(reference):
        if path in (RUN_FILE, ROOT_MANIFEST):
            continue
        for content in (None, root.read_bytes(path)[:-1]):
            root.remove(path)
            if content is not None and "zarr.json" not in path:
                root.write_bytes(path, content)
            made = resume(root, data, PLAN)
            assert len(made) == ("zarr.json" not in path)
            assert digests(root) == reference


def test_two_runs_at_once_leave_one_data_set(folders: Folders, data: Arrays, reference: Reference) -> None:
    """Two that race, and then one that begins while the other stands still in the middle of its shards."""
    for _ in range(5):
        root = folders()
        children = [in_child(lambda root=root: resume(root, data, PLAN)) for _ in range(2)]
        statuses = sorted(exit_status(child) for child in children)
        assert statuses in ([0, 0], [0, 1])  # one after the other, or one refused
        assert digests(root) == reference
    root = folders()

    def stop_midway(number: int) -> None:
        if read_shard_manifest(root, 0) is not None and not stopped:
            stopped.append(number)
            os.kill(os.getpid(), signal.SIGSTOP)

    stopped: list[int] = []
    first = in_child(lambda: traced(lambda: resume(root, data, PLAN), stop_midway))
    assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
    assert exit_status(in_child(lambda: resume(root, data, PLAN))) == 1
    os.kill(first, signal.SIGCONT)
    assert exit_status(first) == 0
    assert digests(root) == reference
