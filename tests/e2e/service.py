"""The service as an operator runs it: the Makefile's server, workers and deployments, with its own Prefect home."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

from tests.conftest import ROOT

T = TypeVar("T")
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Service:
    """One server, and the processes started beside it.

    Args:
        home: folder for Prefect's database and the log.
        environment: more environment variables.
    """

    folder = ROOT  # of the project, where make is called

    def __init__(self, home: Path, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **cli_environment(home),
            "API_PORT": self.port,
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # 10 by default
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self.output = home / "log.txt"
        self.variables: dict[str, tuple[str, ...]] = {}  # of each process, to start it again
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def make(self, target: str, *variables: str) -> str:
        """Run a target of the Makefile to its end; return its output."""
        return self._run(*_make(target), *variables)

    def prefect(self, *arguments: str) -> str:
        """Run Prefect's command line to its end; return its output."""
        return self._run(sys.executable, "-m", "prefect", *arguments)

    def start(self, target: str, *variables: str, name: str = "", **environment: str) -> None:
        """Start a target of the Makefile that runs until it is stopped, unless one of this name is running."""
        name = name or target
        if name in self.processes and self.processes[name].poll() is None:
            return
        self.variables[name] = variables or self.variables.get(name, ())
        with open(self.output, "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.command(target, name), *self.variables[name]], cwd=self.folder,
                env={**self.environment, **environment}, stdout=log, stderr=log,
            )  # fmt: skip

    def command(self, target: str, name: str) -> list[str]:
        """What starts a target of the Makefile as the process of this name."""
        return _make(target)

    def start_server(self, *variables: str) -> None:
        """Start the server and wait until it answers."""
        self.start("server", *variables)
        self.wait_for(self.is_up, seconds=400)

    def kill(self, name: str) -> None:
        """kill -9 make, the process that it started, and the flow runs of a worker."""
        made = self.processes.pop(name)
        for one in [*psutil.Process(made.pid).children(recursive=True), psutil.Process(made.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        made.wait()

    def stop(self) -> None:
        """Stop all processes and their children, the workers before the server."""
        for process in reversed(self.processes.values()):
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for one in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.terminate()
            for one in psutil.wait_procs(below, timeout=15)[1]:
                one.kill()
            process.kill()
            process.wait()
        self.processes.clear()

    def request(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """The answer of the server's API: GET, or POST with a body."""
        request = Request(
            f"{self.url}/api/{path}", None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"}, method=method,
        )  # fmt: skip
        if login := self.environment.get("PREFECT_API_AUTH_STRING"):
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        for retries in reversed(range(5)):  # SQLite has one writer: the server may answer 503
            try:
                with urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except HTTPError as error:
                if error.code != 503 or not retries:
                    raise
                time.sleep(1)
        raise AssertionError("unreachable")

    def ask(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        """All deployments, flow_runs, task_runs or artifacts of the server, or those of a filter."""
        return list(self.request(f"{what}/filter", filters))

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment, as its form in the UI does; return the run's id."""
        found = self.request(f"deployments/name/{deployment}")
        made = self.request(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run: its type, name and message."""
        return dict(self.request(f"flow_runs/{run}")["state"])

    def set_state(self, run: str, kind: str, name: str | None = None, **details: Any) -> None:
        """Request a state, as the buttons of the UI do."""
        state = {"type": kind, "name": name, "state_details": details}
        answer = self.request(f"flow_runs/{run}/set_state", {"state": state, "force": False})
        assert answer["status"] == "ACCEPT", answer

    def finished(self, run: str, seconds: float = 400) -> dict[str, Any]:
        """The state in which a run ends."""
        return self.wait_for(lambda: (state := self.state(run))["type"] in ENDED and state, seconds)

    def flow_processes(self, run: str, worker: str = "worker") -> list[int]:
        """The processes below a worker that belong to a flow run."""
        found = []
        for one in psutil.Process(self.processes[worker].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if one.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    found.append(one.pid)
        return found

    def artifacts(self, run: str) -> dict[str, Any]:
        """The data of a run's artifacts by key, the latest of each."""
        found = self.ask("artifacts", artifacts={"flow_run_id": {"any_": [run]}}, sort="UPDATED_DESC")
        return {artifact["key"]: artifact["data"] for artifact in reversed(found)}

    def is_up(self) -> bool:
        """Whether the server answers."""
        assert self.processes["server"].poll() is None, self.log
        try:
            return self.request("health") is True
        except HTTPError:
            raise
        except OSError:
            return False

    def wait_for(self, condition: Callable[[], T], seconds: float, every: float = 0.5) -> T:
        """The first true value of a condition, which is evaluated every ``every`` seconds."""
        until = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < until, f"still waiting after {seconds} seconds: {self.log}"
            time.sleep(every)
        return value

    @property
    def log(self) -> str:
        """The end of the output of server and worker."""
        return self.output.read_text()[-6000:]

    def _run(self, *command: str) -> str:
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr + self.log
        return result.stdout


def cli_environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home / "prefect"), "OMP_NUM_THREADS": "1"}


def _make(target: str) -> list[str]:
    # server.mk alone: the whole Makefile would set up an environment first.
    return ["make", "-f", "deployments/server.mk", target, f"BIN={os.path.dirname(sys.executable)}"]
