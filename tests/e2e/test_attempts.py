"""Several attempts of one run, through real workers: one works, the others step aside; nothing is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.e2e.service import Service
from tests.e2e.test_recovery import DATA, assert_whole, manifests, start

pytestmark = pytest.mark.e2e


def states(service: Service, run: str) -> list[str]:
    """The names of all states that a run has had, the first one first."""
    every = service.request(f"flow_run_states/?flow_run_id={run}")
    return [one["name"] for one in sorted(every, key=lambda one: one["timestamp"])]


def test_a_run_whose_process_is_killed_starts_again_once_and_ends_whole(service: Service, tmp_path: Path) -> None:
    """SIGKILL, as by a system without memory, while its worker lives and reports it too."""
    data = tmp_path / "data"
    run = start(service, data, 3, seed=11)
    for pid in service.flow_processes(run):
        psutil.Process(pid).send_signal(signal.SIGKILL)
    made = manifests(data)
    assert_whole(service, run, data)
    assert made.items() <= manifests(data).items()
    assert states(service, run).count("AwaitingRetry") == 1
    assert service.request(f"flow_runs/{run}")["run_count"] == 2


def test_a_second_attempt_of_a_living_run_steps_aside(service: Service, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = start(service, data, 3, seed=16)
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", run]
    first = [psutil.Process(pid) for pid in service.flow_processes(run)]
    for one in first:
        one.suspend()  # it lives and holds its output, and does not end before the second comes
    try:
        second = subprocess.run(command, cwd=ROOT, env=service.environment, capture_output=True, text=True, check=False)
    finally:
        for one in first:
            one.resume()
    said = second.stdout + second.stderr
    assert second.returncode == 0, said
    assert "another attempt of this run is at work" in said
    assert_whole(service, run, data)
    assert not {"Failed", "Crashed"} & set(states(service, run))


def test_what_a_dead_run_had_submitted_is_cancelled_when_it_begins_again(service: Service, tmp_path: Path) -> None:
    data = tmp_path / "data"

    def batches() -> set[str]:
        return {one["id"] for one in service.ask("flow_runs") if one["parameters"].get("output") == str(data)} - {run}

    service.start("worker")
    overrides = [*DATA, "compute.executor=work-pool", "compute.concurrent_shards=2"]
    run = service.run("generate-dataset/demo", output=str(data), overrides=overrides, workspace=str(tmp_path / "work"))
    service.wait_for(lambda: len(batches()) == 2, 300)  # which nobody takes up
    left = batches()
    service.kill("worker")
    service.start("worker")
    service.wait_for(lambda: all(service.state(one)["type"] == "CANCELLED" for one in left), 400)
    service.start("worker", "POOL=shards", name="shards")
    assert_whole(service, run, data)
    assert {service.state(one)["type"] for one in batches() - left} == {"COMPLETED"}
