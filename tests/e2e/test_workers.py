"""Workers that are killed together with what they run: found out by the server, made good, and nothing shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import cli_arguments, digests
from tests.e2e.service import Service
from tests.e2e.test_recovery import assert_whole, manifests

pytestmark = pytest.mark.e2e

SHARDS = 6  # handed out as 0 to 2, 3 and 4, 5
DATA = (
    "seed=1729", "generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "dataset.shard_size=500",
    f"dataset.n_subjects={500 * SHARDS}", "dataset.association=[1.0, 0.5]",
)  # fmt: skip


@pytest.fixture
def impatient(service: Service) -> Iterator[None]:
    """The automation for silent runs waits 40 seconds in place of 90; heartbeats come every 30."""
    (silent,) = [one for one in service.ask("automations") if one["name"] == "crash silent runs"]
    shipped = {key: silent[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    path = f"automations/{silent['id']}"
    service.request(path, {**shipped, "trigger": {**silent["trigger"], "within": 40.0}}, method="PUT")
    yield
    service.request(path, shipped, method="PUT")


@contextmanager
def generate_by_workers(service: Service, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a terminal of somebody who uses the service."""
    home.mkdir()
    overrides = [f"--set={one}" for one in (*DATA, "compute.runner=workers", "compute.workers=2")]
    arguments = cli_arguments("generate", *overrides, "--output", "data")
    with open(home / "log", "wb") as log:
        command = subprocess.Popen(arguments, env=service.environment, cwd=home, stdout=log, stderr=log)
    try:
        yield command
    finally:
        command.kill()
        command.wait()


def test_workers_killed_with_their_runs_leave_no_trace(service: Service, tmp_path: Path, impatient: None) -> None:
    """Two data sets of one configuration: one made by threads of a run that is killed with its worker and started again
    by the server, the other by two workers of the pool shards, of which one is killed with its run."""
    by_run, by_workers = tmp_path / "run" / "data", tmp_path / "command" / "data"

    def kill_the_run() -> tuple[str, dict[Path, int]]:
        workspace = str(tmp_path / "run" / "work")
        run = service.run("generate-dataset/demo", output=str(by_run), overrides=DATA, workspace=workspace)
        service.wait_for(lambda: manifests(by_run), 300, every=0.02)
        service.kill("worker")
        return run, manifests(by_run)

    def kill_a_stretch() -> tuple[str, dict[Path, int]]:
        service.wait_for(lambda: (by_workers / "shards" / "00000.json").exists(), 300, every=0.02)
        (stretch,) = [one for one in service.ask("flow_runs") if one["name"] == f"shards 0 to 2 of {by_workers}"]
        service.kill(next(name for name in ("one", "two") if service.flow_processes(stretch["id"], name)))
        return stretch["id"], manifests(by_workers)

    service.start("worker")
    for name in ("one", "two"):  # with results of their own, as on other machines
        service.start("worker", "POOL=shards", name=name, PREFECT_LOCAL_STORAGE_PATH=str(tmp_path / name))
    with generate_by_workers(service, tmp_path / "command") as command, ThreadPoolExecutor() as pool:
        killers = [pool.submit(kill) for kill in (kill_the_run, kill_a_stretch)]
        (run, made_by_run), (stretch, made_by_workers) = (killer.result() for killer in killers)
        assert len(made_by_run) < SHARDS
        assert by_workers / "shards" / "00002.json" not in made_by_workers
        service.start("worker")
        assert command.wait(400) == 0, (tmp_path / "command" / "log").read_text()[-4000:]
    assert service.state(stretch)["type"] == "CRASHED"
    told = (tmp_path / "command" / "log").read_text()
    assert f"shards 0 to 2 of {by_workers}: Crashed: No heartbeat" in told
    assert "to be handed out again" in told
    names = {one["name"].removesuffix(f" of {by_workers}") for one in service.ask("flow_runs")}
    assert {"shards 0 to 2", "shards 3 to 4", "shard 5", "shard 2"} <= names
    assert made_by_workers.items() <= manifests(by_workers).items()  # no more than the shard in hand was lost

    assert_whole(service, run, by_run)
    assert service.request(f"flow_runs/{run}")["run_count"] == 2
    assert made_by_run.items() <= manifests(by_run).items()
    assert digests(by_workers) == digests(by_run)
