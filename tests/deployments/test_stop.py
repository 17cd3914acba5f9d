"""``make stop`` ends exactly the processes that this folder's commands started, by start, boot and PID namespace."""

import os
import subprocess
import sys
import threading
import time
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


def test_all_are_told_to_end_before_any_is_waited_for(tmp_path: Path) -> None:
    """Each of these takes three seconds to end, as a worker takes half a minute."""
    slow = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(3), sys.exit()))
print(flush=True)
time.sleep(60)
"""
    (tmp_path / ".run").mkdir()
    started = []
    for number in range(4):
        one = subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE)
        assert one.stdout is not None
        one.stdout.readline()
        threading.Thread(target=one.wait, daemon=True).start()
        record = f"{one.pid} {start_of(one)} {BOOT} {NAMESPACE}\n"
        (tmp_path / ".run" / f"worker-{number}").write_text(record, encoding="utf-8")
        started.append(one)
    began = time.monotonic()
    command = ["make", "--silent", "-f", str(ROOT / "deployments/server.mk"), "stop"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True).stdout
    assert time.monotonic() - began < 9, "twelve seconds one after another"
    assert printed == "".join(f"stopped worker-{number}\n" for number in range(4))
    assert not any((tmp_path / ".run").iterdir())
