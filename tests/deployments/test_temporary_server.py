"""The temporary Prefect server: it answers, ends with the process that started it, and gets no Ctrl-C."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.deployments import temporary_server
from image_longitudinal.deployments.temporary_server import TemporaryServer, server_for_this_process

# Starts the server, prints its process, its port and what Prefect's settings and a later run see, and waits.
STARTER = """
from image_longitudinal.deployments.temporary_server import server_for_this_process
server = server_for_this_process()
server.wait()
from prefect.settings import PREFECT_API_URL
from image_longitudinal.tasks.engine.prefect_setup import lasting_server
print(server.process.pid, server.port, PREFECT_API_URL.value() == server.url, lasting_server(),
      server_for_this_process() is server, flush=True)
import time; time.sleep(600)
"""


@contextmanager
def starter(home: Path) -> Iterator[subprocess.Popen[str]]:
    kept = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    environment = {**kept, "PREFECT_HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_server_answers_and_ends_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    with starter(tmp_path) as process:
        assert process.stdout is not None
        pid, port, *seen = process.stdout.readline().split()
        assert seen == ["True", "None", "True"]  # Prefect's settings name it, it does not last, and it is the only one
        server = psutil.Process(int(pid))
        assert os.getsid(server.pid) != os.getsid(process.pid)  # Ctrl-C goes to the processes of a terminal's session
        connection = HTTPConnection("127.0.0.1", int(port), timeout=30)
        connection.request("GET", "/api/health")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGKILL)
        server.wait(10)


def test_a_server_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:////{tmp_path}/none/prefect.db")
    server = TemporaryServer()
    try:
        with pytest.raises(ConfigError, match="temporary server did not start"):
            server.wait()
    finally:
        server.stop()


def test_no_server_is_started_where_one_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def start() -> TemporaryServer:
        raise AssertionError("started")

    monkeypatch.setattr(temporary_server, "TemporaryServer", start)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert server_for_this_process() is None
