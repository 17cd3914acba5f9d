"""The temporary Prefect server: started beside an import, stopped with its command or by the next command."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from image_longitudinal.cli.prefect_session import APPLICATION, STARTED_BY, stop_orphaned_servers, temporary_server

# A command that marks itself, starts something with the arguments of Prefect's server, prints its id and waits.
COMMAND = f"""
import subprocess, sys, time
from image_longitudinal.cli.prefect_session import stop_orphaned_servers
stop_orphaned_servers()
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "{APPLICATION}"]).pid, flush=True)
time.sleep(60)
"""


def test_the_server_of_a_killed_command_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STARTED_BY, "")  # restored afterwards
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    server = psutil.Process(int(command.stdout.readline()))
    try:
        stop_orphaned_servers()
        assert server.is_running()
        assert os.environ[STARTED_BY] == str(os.getpid())
        command.kill()
        command.wait()
        stop_orphaned_servers()
        server.wait(10)
    finally:
        command.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()


# A command in whose ``with`` Prefect's server starts; prints what the server answers, and its process id.
SERVED = """
import httpx
from image_longitudinal.cli.prefect_session import temporary_server
with temporary_server():
    from prefect.server.api.server import SubprocessASGIServer
server = SubprocessASGIServer()
print(httpx.get(f"{server.api_url}/health").status_code, server.server_process.pid)
"""


def test_the_server_answers_after_the_body_and_ends_with_the_command(tmp_path: Path) -> None:
    kept = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    environment = {**kept, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    ended = subprocess.run(
        [sys.executable, "-c", SERVED], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    status, pid = map(int, ended.stdout.split())
    assert status == 200
    assert not psutil.pid_exists(pid)


def test_no_server_is_started_where_one_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, temporary_settings

    started: list[SubprocessASGIServer] = []
    monkeypatch.setattr(SubprocessASGIServer, "start", started.append)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), temporary_server():
        pass
    assert not started
