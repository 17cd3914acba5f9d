"""The main job as an operator runs it: server, deployments and worker, started by the commands of the Makefile."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import psutil
import pytest

from storage.filesystem import open_root
from storage.reader import open_dataset
from storage.verify import verify_dataset
from tests.conftest import ROOT
from tests.e2e.conftest import cli_environment

pytestmark = pytest.mark.e2e
T = TypeVar("T")

CONFIG = {
    "generator": {"backend": "phantom", "image_size": 32},  # needs no training
    "probe": {"n_images": 64},
    "dataset": {"n_subjects": 48, "shard_size": 16, "association": [1.0, 0.5], "test_fraction": 0.25},
}


def test_the_main_deployment_runs_through_a_worker(service: Service, tmp_path: Path) -> None:
    output = tmp_path / "data"
    service.make("deploy")
    deployed = {deployment["name"]: deployment for deployment in service.ask("deployments")}
    images = {"ingest-images", "train-models", "generate-dataset", "verify-dataset"}
    assert set(deployed) == images | {"evaluate-dataset", "simulate-table", "fit-table"}
    form = deployed["generate-dataset"]["parameter_openapi_schema"]
    assert all(parameter["description"] for parameter in form["properties"].values())
    assert form["definitions"]["Config"]["properties"]["dataset"]
    assert form["properties"]["preset"]["enum"] == ["demo", "scans", "small", "paper"]

    service.start("worker")
    parameters = {"output": str(output), "workspace": str(tmp_path / "work"), "config": CONFIG}
    service.prefect("deployment", "run", "generate-dataset/generate-dataset", "--params", json.dumps(parameters))
    ended = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    (run,) = service.wait_for(lambda: service.ask("flow_runs", flow_runs=ended), seconds=120)
    assert run["state"]["type"] == "COMPLETED", service.log
    assert run["name"] == f"generate {output}"
    assert {"images of shard 0", "outcomes of shard 2", f"publish {output}"} <= {
        task["name"] for task in service.ask("task_runs")
    }

    artifacts = {artifact["key"]: artifact["data"] for artifact in service.ask("artifacts")}
    assert artifacts["make-subjects"] == 100
    assert [row["state"] for row in json.loads(artifacts["shards"])] == ["made"] * 3
    assert artifacts["dataset"].count("](data:image/png;base64,") == 2
    assert {row["designed"] for row in json.loads(artifacts["association"])} == {1.0, 0.5}

    assert verify_dataset(open_root(output)).ok
    assert len(open_dataset(output)) == 48


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A running server; it and whatever was started beside it are stopped at the end, their children too."""
    service = Service(tmp_path)
    try:
        service.start("server")
        service.wait_for(service.is_up, seconds=120)
        yield service
    finally:
        service.stop()


class Service:
    """The Makefile's server, worker and deployments, from this checkout, in a Prefect home of their own."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **cli_environment(home),
            "API_PORT": port,
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # a person waits 10 seconds more gladly than a test
        }
        self.output = home / "log.txt"
        self.processes: list[subprocess.Popen[bytes]] = []

    def make(self, target: str) -> None:
        """Run a target of the Makefile to its end."""
        self._run(*_make(target))

    def prefect(self, *arguments: str) -> None:
        """Run Prefect's own command line to its end."""
        self._run(sys.executable, "-m", "prefect", *arguments)

    def start(self, target: str) -> None:
        """Start a target of the Makefile that runs until it is stopped."""
        with open(self.output, "ab") as log:
            started = subprocess.Popen(_make(target), cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        self.processes.append(started)

    def stop(self) -> None:
        """Stop everything, the worker before the server, and everything below it."""
        for process in reversed(self.processes):
            below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for one in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.terminate()
            for one in psutil.wait_procs(below, timeout=15)[1]:
                one.kill()
            process.kill()
            process.wait()

    def ask(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        """All deployments, flow_runs, task_runs or artifacts that the server knows, or those that a filter leaves."""
        request = Request(
            f"{self.api}/{what}/filter", json.dumps(filters).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def is_up(self) -> bool:
        """Whether the server answers."""
        assert self.processes[0].poll() is None, self.log
        try:
            return urlopen(f"{self.api}/health", timeout=5).status == 200
        except OSError:
            return False

    def wait_for(self, condition: Callable[[], T], seconds: float) -> T:
        """The first true value of a condition that is asked every half second."""
        until = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < until, f"still waiting after {seconds} seconds: {self.log}"
            time.sleep(0.5)
        return value

    @property
    def log(self) -> str:
        """The last words of server and worker."""
        return self.output.read_text()[-6000:]

    def _run(self, *command: str) -> None:
        result = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr + self.log


def _make(target: str) -> list[str]:
    # The fragment alone: the whole Makefile would set up an environment first, and this one is in use.
    return ["make", "-f", "deployments/server.mk", target, f"BIN={os.path.dirname(sys.executable)}"]
