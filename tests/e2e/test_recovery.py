"""What can happen to a run, against a real server and real workers: nothing made is lost, nothing shows afterwards."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from storage.filesystem import is_temporary, open_root
from storage.verify import verify_dataset
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

SHARDS = 100  # many small ones, so that a run can be met in the middle
CONFIG = {
    "generator": {"backend": "phantom", "image_size": 32},
    "probe": {"n_images": 64},
    "dataset": {"n_subjects": 8 * SHARDS, "shard_size": 8, "association": [1.0, 0.5]},
}


def manifests(data: Path) -> dict[Path, int]:
    """The shards that are made, with the time of each."""
    return {path: path.stat().st_mtime_ns for path in data.glob("shards/*.json")}


def start(service: Service, data: Path, shards: int, deployment: str = "generate-dataset", **parameters: Any) -> str:
    """A run of the main job, met when some of its shards are made. Each test's data have a seed of their own."""
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
    assert service.finished(run)["type"] == "COMPLETED", service.log
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


def local_address() -> str:
    """An address of this machine that is not the loopback, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        return str(probe.getsockname()[0])
