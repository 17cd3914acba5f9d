"""A killed command's Prefect server is stopped by the next command; a running command's is not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from flows.temporary_server import APPLICATION, STARTED_BY, stop_orphaned_servers

# A command that marks itself, starts something with the arguments of Prefect's server, says its id and waits.
COMMAND = f"""
import subprocess, sys, time
from flows.temporary_server import stop_orphaned_servers
stop_orphaned_servers()
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "{APPLICATION}"]).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def command() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    server = psutil.Process(int(command.stdout.readline()))
    yield command, server
    command.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        server.kill()


def test_the_server_of_a_killed_command_is_stopped(
    command: tuple[subprocess.Popen[str], psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STARTED_BY, "")  # restored afterwards
    process, server = command
    stop_orphaned_servers()
    assert server.is_running()
    assert os.environ[STARTED_BY] == str(os.getpid())
    process.kill()
    process.wait()
    stop_orphaned_servers()
    server.wait(10)
    assert not server.is_running()
