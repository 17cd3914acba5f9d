"""What can happen to a run, against a real server and real workers: nothing made is lost, nothing shows afterwards."""

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from tests.e2e.conftest import cli_arguments, digests
from tests.e2e.service import ENDED, Service

pytestmark = pytest.mark.e2e

SHARDS = 60  # many small ones, so that a run can be met in the middle
CONFIG = {
    "generator": {"backend": "phantom", "image_size": 32},
    "probe": {"n_images": 64},
    "dataset": {"n_subjects": 8 * SHARDS, "shard_size": 8, "association": [1.0, 0.5]},
}


def manifests(data: Path) -> dict[Path, int]:
    """The shards that are made, with the time of each."""
    return {path: path.stat().st_mtime_ns for path in data.glob("shards/*.json")}


def start(service: Service, data: Path, shards: int, deployment: str = "generate-dataset", **parameters: Any) -> str:
    """A run of the main job, met when some of its shards are made. Each test's data have another seed."""
    service.start("worker")
    config = {**CONFIG, "seed": parameters.pop("seed")}
    run = service.run(
        f"generate-dataset/{deployment}", output=str(data), config=config, workspace=str(data.parent / "work"),
        **parameters,
    )  # fmt: skip
    service.wait_for(lambda: len(manifests(data)) >= shards, 300)
    return run


def assert_whole(service: Service, run: str, data: Path) -> None:
    """The run ends well, and nothing is wrong or left over in what it made."""
    ended = service.wait_for(lambda: (state := service.state(run))["type"] in ENDED - {"CRASHED"} and state, 400)
    assert ended["type"] == "COMPLETED", service.log  # a crash is not the end: the server starts the run again
    assert verify_dataset(open_root(data)).ok
    assert not [path for path in data.rglob("*") if is_temporary(str(path))]


def test_without_the_password_the_server_tells_nothing(large_service: Service) -> None:
    with pytest.raises(HTTPError, match="401"):
        urlopen(Request(f"{large_service.url}/api/flows/filter", b"{}", {"Content-Type": "application/json"}))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((local_address(), int(large_service.port)), 5)


def test_two_runs_at_once_outlive_a_server_that_is_killed_and_comes_back(
    large_service: Service, tmp_path: Path
) -> None:
    service, first, second = large_service, tmp_path / "first" / "data", tmp_path / "second" / "data"
    runs = {first: start(service, first, 0, seed=1), second: start(service, second, 3, "demo", seed=2)}
    service.wait_for(lambda: len(manifests(first)) >= 3, 60)
    assert [service.state(run)["type"] for run in runs.values()] == ["RUNNING", "RUNNING"]
    service.kill("server")
    time.sleep(2)
    service.start_server()
    for data, run in runs.items():
        assert_whole(service, run, data)


FEW = 6  # submitted as 0 to 2, 3 and 4, 5
DATA = (
    "seed=1729", "generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "dataset.shard_size=500",
    f"dataset.n_subjects={500 * FEW}", "dataset.association=[1.0, 0.5]",
)  # fmt: skip


@contextmanager
def generate_by_workers(service: Service, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in a terminal of somebody who uses the service."""
    home.mkdir()
    overrides = [f"--set={one}" for one in (*DATA, "compute.executor=work-pool", "compute.concurrent_shards=2")]
    arguments = cli_arguments("generate", *overrides, "--output", "data")
    with open(home / "log", "wb") as log:
        command = subprocess.Popen(arguments, env=service.environment, cwd=home, stdout=log, stderr=log)
    try:
        yield command
    finally:
        command.kill()
        command.wait()


def test_workers_killed_with_their_runs_leave_no_trace(large_service: Service, tmp_path: Path) -> None:
    """Two data sets of one configuration: one made by threads of a run that is killed with its worker and started again
    by the server, the other by two workers of the pool shards, of which one is killed with its run."""
    service = large_service
    by_run, by_workers = tmp_path / "run" / "data", tmp_path / "command" / "data"

    def kill_the_run() -> tuple[str, dict[Path, int]]:
        workspace = str(tmp_path / "run" / "work")
        run = service.run("generate-dataset/demo", output=str(by_run), overrides=DATA, workspace=workspace)
        service.wait_for(lambda: manifests(by_run), 300, every=0.02)
        service.kill("worker")
        return run, manifests(by_run)

    def kill_a_batch() -> tuple[str, dict[Path, int]]:
        def batches() -> list[Any]:
            return [one for one in service.ask("flow_runs") if one["name"] == f"shards 0 to 2 of {by_workers}"]

        def workers(batch: str) -> list[str]:
            return [name for name in ("one", "two") if service.flow_processes(batch, name)]

        batch = service.wait_for(batches, 300)[0]["id"]
        # Before the first shard is finished, since the others follow within a second.
        (worker,) = service.wait_for(lambda: workers(batch), 300)
        service.wait_for(lambda: (by_workers / "shards" / "00000.json").exists(), 300, every=0.02)
        service.kill(worker)
        return batch, manifests(by_workers)

    service.start("worker")
    for name in ("one", "two"):  # with separate results, as on other machines
        service.start("worker", "POOL=shards", name=name, PREFECT_LOCAL_STORAGE_PATH=str(tmp_path / name))
    with generate_by_workers(service, tmp_path / "command") as command, ThreadPoolExecutor() as pool:
        killers = [pool.submit(kill) for kill in (kill_the_run, kill_a_batch)]
        (run, made_by_run), (batch, made_by_workers) = (killer.result() for killer in killers)
        assert len(made_by_run) < FEW
        assert by_workers / "shards" / "00002.json" not in made_by_workers
        service.start("worker")
        assert command.wait(400) == 0, (tmp_path / "command" / "log").read_text()[-4000:]
    assert service.state(batch)["type"] == "CRASHED"
    output = (tmp_path / "command" / "log").read_text()
    assert f"shards 0 to 2 of {by_workers}: Crashed: No heartbeat" in output
    assert "are submitted again" in output
    names = {one["name"].removesuffix(f" of {by_workers}") for one in service.ask("flow_runs")}
    assert {"shards 0 to 2", "shards 3 to 4", "shard 5", "shard 2"} <= names
    assert made_by_workers.items() <= manifests(by_workers).items()  # no more than the shard in hand was lost

    assert_whole(service, run, by_run)
    assert service.request(f"flow_runs/{run}")["run_count"] == 2
    assert made_by_run.items() <= manifests(by_run).items()
    assert digests(by_workers) == digests(by_run)


def local_address() -> str:
    """An address of this machine that is not the loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        return str(probe.getsockname()[0])
