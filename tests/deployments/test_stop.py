"""``make stop`` ends exactly the processes that this folder's commands started, by start, boot and PID namespace."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
NAMESPACE = os.readlink("/proc/self/ns/pid")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be a server of somebody else."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "prefect server start"])
    threading.Thread(target=started.wait, daemon=True).start()  # else it would stay as a zombie, as if it were alive
    yield started
    started.kill()
    started.wait()


def start_of(process: subprocess.Popen[bytes]) -> str:
    text = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    return text.rpartition(") ")[2].split()[19]


def stop(folder: Path, record: str) -> tuple[str, bool]:
    """What ``make stop`` prints, and whether the record is still there."""
    file = folder / ".run" / "server-4200"
    file.parent.mkdir()
    file.write_text(record + "\n", encoding="utf-8")
    command = ["make", "--silent", "-f", str(ROOT / "deployments/server.mk"), "stop"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=True)
    return done.stdout, file.exists()


def test_a_process_of_this_folder_is_stopped(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    printed, left = stop(tmp_path, f"{process.pid} {start_of(process)} {BOOT} {NAMESPACE}")
    assert (printed, left) == ("stopped server-4200\n", False)
    assert process.wait(10) < 0


@pytest.mark.parametrize(
    ("start", "boot", "namespace", "kept"),
    [
        ("12", BOOT, NAMESPACE, False),  # its number was given to another process
        ("", "another-boot", NAMESPACE, False),
        ("", BOOT, "pid:[1]", True),  # a container's: it may still run
        ("", "", "", False),  # a record of an earlier version
    ],
)
def test_a_process_with_the_same_number_is_left_alone(
    tmp_path: Path, process: subprocess.Popen[bytes], start: str, boot: str, namespace: str, kept: bool
) -> None:
    record = f"{process.pid} {start or start_of(process)} {boot} {namespace}" if boot else str(process.pid)
    printed, left = stop(tmp_path, record)
    assert process.poll() is None
    assert left == kept
    assert ("another container" in printed) == kept
