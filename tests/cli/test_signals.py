"""Signals in the middle of a computation that sees none: the command ends all the same, and holds nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from image_longitudinal.cli.signals import GRACE, RELEASE, Interruption
from image_longitudinal.core.progress import Step
from image_longitudinal.storage.dataset.layout import LEASE

# Holds a lease, has a child process, and is inside a C function for minutes.
COMPUTATION = """
import hashlib, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test worker ignores it, and so would its children
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it
from image_longitudinal.cli.signals import ending_by_signals
from image_longitudinal.core.progress import Counter
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
with ending_by_signals(sys.argv[1]), hold_lease(open_root("data")):
    Counter("make shards", 40, "shards").update(12)
    Counter("generate images", 100, "images").update(7)
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
LINE = "interrupted: 12 of 40 shards are done; give the same command again to go on\n"


@pytest.mark.parametrize(
    ("signals", "status", "command", "line"),
    [
        ([signal.SIGINT], 130, "generate", LINE),
        ([signal.SIGTERM], 143, "generate", LINE),
        ([signal.SIGHUP], 129, "generate", LINE),
        ([signal.SIGINT, signal.SIGINT], 130, "fit", "interrupted: give the same command again to start over\n"),
    ],
)
def test_a_computation_ends_with_one_line_and_leaves_nothing(
    signals: list[signal.Signals],
    status: int,
    command: str,
    line: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMPUTATION, command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    request.addfinalizer(process.kill)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    assert (tmp_path / "data" / LEASE).exists()
    began = time.monotonic()
    for number in signals:
        os.kill(process.pid, number)
        time.sleep(0.1)  # two signals of one kind at once are one
    assert process.communicate(timeout=30)[1] == line
    # Four seconds more than the promise: the host may run other tests.
    assert time.monotonic() - began < (4 if len(signals) > 1 else GRACE + RELEASE + 4)
    assert process.returncode == status
    child.wait(5)
    assert not (tmp_path / "data").exists()  # the lease was all that it held


def test_the_replicates_of_a_bootstrap_are_kept_by_a_command_that_else_starts_over() -> None:
    own = Interruption("fit")
    own.listen(Step("bootstrap", 3, 8, "replicates"))
    assert own.text() == "interrupted: 3 of 8 replicates are done; give the same command again to go on"
    own.listen(Step("bootstrap", 8, 8, "replicates"))
    assert own.text() == "interrupted: give the same command again to start over"


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """nohup ignores SIGHUP, and a shell ignores SIGINT for commands in the background."""
    program = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from image_longitudinal.cli.signals import ending_by_signals
with ending_by_signals("generate"):
    os.kill(os.getpid(), signal.SIGHUP)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


def test_a_signal_while_the_command_ends_changes_nothing() -> None:
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from image_longitudinal.cli import signals\n"
        "signals._kill_children = lambda: signal.raise_signal(signal.SIGINT)\n"
        "with signals.ending_by_signals('fit'):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted: give the same command again to start over\n")
