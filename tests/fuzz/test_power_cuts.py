"""A power cut at any moment of a run: the same command ends in the same digests."""

import contextlib
import os
import pickle
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.fuzz.conftest import Reference
from tests.fuzz.runs import POINTS, Job, Runs, points, result
from tests.power_cuts import Cut, lay_out


def test_cut_between_any_two_syncs(runs: Runs, reference: Reference, site: Path) -> None:
    """What a disk may keep by POSIX (:mod:`tests.power_cuts`), of moments spread over the run."""
    expected, _ = reference
    file = site.with_suffix(".cuts")
    ended = runs.run(Job(str(site), cuts=str(file)))
    assert ended.status == 0, ended.output
    cuts: list[Cut] = pickle.loads(file.read_bytes())
    print(f"\na run has {len(cuts)} moments at which a sync or a name separates what a disk may keep")
    for number, moment in enumerate(points(len(cuts) - 1, seed=3)):
        state, tree = list(cuts[moment].states(number))[number % 5]
        shutil.rmtree(site)
        lay_out(tree, site)
        ended = runs.run(Job(str(site)))
        where = f"{state}, before {cuts[moment].call}"
        assert ended.status == 0, f"{where}: {ended.output}"
        assert result(site) == expected, where
        print(f"moment {moment}, {state}: the same digests")


@contextlib.contextmanager
def mounted(image: Path, folder: Path):
    """A file system in a file, mounted during the body."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
    try:
        yield
    finally:
        for _ in range(50):  # a process that has just ended may hold it for a moment
            if subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"cannot unmount {folder}")


def test_cut_of_a_real_file_system(runs: Runs, reference: Reference, site: Path) -> None:
    """An ext4 whose device is copied while a run writes to it, and 6 seconds after: what a power cut leaves."""
    expected, _ = reference
    image, mount = site.with_suffix(".img"), site.with_suffix(".mnt")
    with open(image, "wb") as file:
        file.truncate(96 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        with mounted(image, mount):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root, loop devices and mkfs.ext4")
    over, copies = threading.Event(), list[Path]()

    def copy() -> None:
        while not over.wait(0.5):
            if (mount / "run").exists():
                copies.append(image.with_suffix(f".{len(copies)}"))
                subprocess.run(["cp", "--sparse=always", image, copies[-1]], check=True)

    with mounted(image, mount):
        thread = threading.Thread(target=copy)
        thread.start()
        ended = runs.run(Job(str(mount / "run")))
        time.sleep(6)  # until the kernel writes back what is left
        over.set()
        thread.join()
        assert ended.status == 0, ended.output
    chosen = copies[:: max(1, len(copies) // POINTS)]
    for number, after in enumerate(chosen):
        with mounted(after, mount):
            here = mount / "run"
            empty = sum(1 for path in here.rglob("*") if path.is_file() and not path.stat().st_size)
            ended = runs.run(Job(str(here)))
            assert ended.status == 0, f"cut {number}: {ended.output}"
            assert result(here) == expected, f"cut {number}"
            print(f"\ncut {number}: {empty} empty files, the same digests", end="")
        os.unlink(after)
