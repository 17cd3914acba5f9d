"""The order of writing as a whole: stopped anywhere, nothing half-made is taken as done, and a rerun ends the same."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset.manifest import is_published, part_is_intact, read_shard_manifest
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.root import Root, clean_temporaries
from tests.paths import ROOT
from tests.storage.conftest import PLAN, write_dataset

Snapshot = Callable[[Root], dict[str, str]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of an uninterrupted run."""
    root = LocalRoot(tmp_path_factory.mktemp("reference"))
    write_dataset(root)
    return {path: root.sha256(path) for path in root.files()}


def check_nothing_half_made(root: Root, reference: dict[str, str]) -> None:
    assert not is_published(root)
    for path in root.files():
        if path != ".run.json" and not is_temporary(path):
            assert root.sha256(path) == reference[path], f"{path} is torn"
    for shard in PLAN:
        if manifest := read_shard_manifest(root, shard.index):
            assert all(part_is_intact(root, part, rehash=True) for part in manifest.parts.values())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_at_any_step_harms_nothing(
    root: Root, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(os, step)
    calls = len(reference) + 1 if step == "replace" else 2 * (len(reference) + 1)  # and the claim of the run
    for fatal in range(0, calls - 2, 7):  # the last call or two publish
        count = iter(range(10**6))

        def fail(*arguments: object, fatal: int = fatal, count: object = count) -> None:
            if next(count) == fatal:  # type: ignore[call-overload]
                raise OSError(28, "No space left on device")
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(StorageError, match="Free some space"):
                write_dataset(root)
        assert clean_temporaries(root) == []
        check_nothing_half_made(root, reference)
    write_dataset(root)
    assert {path: root.sha256(path) for path in root.files()} == reference


KILLED = """
import os, sys
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.filesystem import LocalRoot
from tests.storage.conftest import write_dataset
real, left = getattr(os, sys.argv[2]), int(sys.argv[3])
def dying(*arguments):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    real(*arguments)
setattr(os, sys.argv[2], dying)
write_dataset(LocalRoot(sys.argv[1]))
"""


@pytest.mark.parametrize(("step", "survived"), [("fsync", 2), ("replace", 9), ("fsync", 40), ("replace", 40)])
def test_a_killed_run_is_taken_up_where_it_stopped(
    tmp_path: Path, reference: dict[str, str], step: str, survived: int
) -> None:
    root = LocalRoot(tmp_path / "data")
    project = ROOT
    command = [sys.executable, "-c", KILLED, str(root.folder), step, str(survived)]
    assert subprocess.run(command, cwd=project).returncode == 9
    check_nothing_half_made(root, reference)
    assert len(clean_temporaries(root)) == 1
    write_dataset(root)
    assert {path: root.sha256(path) for path in root.files()} == reference
    assert verify_dataset(root).ok
