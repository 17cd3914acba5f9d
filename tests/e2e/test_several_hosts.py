"""A server on one host, workers on two others: the data equal those of one process, also if a host is lost."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import cli_arguments, digests
from tests.e2e.hosts import Host, missing, network
from tests.e2e.service import Service
from tests.e2e.test_recovery import manifests

if reason := missing():
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.e2e

WORKERS = ("one", "two")
SHARDS = 80
DATA = (
    "generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "compute.concurrent_shards=2",
    f"dataset.n_subjects={8 * SHARDS}", "dataset.shard_size=8", "seed=27182",
)  # fmt: skip
NOTICED = 200  # seconds, at most, after which the shard of a lost host is made by another one


class Spread(Service):
    """A service whose server is on a host of its own. A process named as a host runs there, with its own home."""

    def __init__(self, home: Path, hosts: dict[str, Host]) -> None:
        super().__init__(home)
        self.home, self.hosts = home, hosts
        self.url = f"http://{hosts['server'].address}:{self.port}"
        self.environment["PREFECT_API_URL"] = f"{self.url}/api"

    def command(self, target: str, name: str) -> list[str]:
        return self.hosts[name].command(*super().command(target, name))

    def start_worker(self, host: str) -> None:
        self.start("worker", "POOL=shards", name=host, PREFECT_HOME=str(self.home / host))

    def lose(self, host: str) -> None:
        """A host without power: its network is gone before its processes are."""
        self.hosts[host].cut()
        self.kill(host)


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Spread]:
    with network("server", *WORKERS) as hosts:
        service = Spread(tmp_path, hosts)
        try:
            service.start_server("API_HOST=0.0.0.0", "SILENCE=40")
            service.make("deploy")
            yield service
        finally:
            service.stop()


@pytest.fixture
def by_one_process(tmp_path: Path, spread: Spread) -> dict[str, str]:
    """The digests of what a command makes alone."""
    process = generating(spread, tmp_path / "alone")
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    return digests(tmp_path / "alone")


def generating(spread: Spread, output: Path, *overrides: str) -> subprocess.Popen[str]:
    """The command, on this machine."""
    sets = [f"--set={one}" for one in (*DATA, *overrides)]
    return subprocess.Popen(
        cli_arguments("generate", *sets, "--refresh", "--output", output, "--workspace", spread.home / "work"),
        env=spread.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_workers_on_two_hosts_of_which_one_is_lost(
    spread: Spread, by_one_process: dict[str, str], tmp_path: Path
) -> None:
    for host in WORKERS:
        spread.start_worker(host)
    output = tmp_path / "pool"
    process = generating(spread, output, "compute.executor=work-pool")

    def both_work() -> bool:
        assert process.poll() is None, process.communicate()
        running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}, "name": {"like_": "of"}}}
        return len(spread.ask("flow_runs", **running)) == len(WORKERS) and len(manifests(output)) > 4

    spread.wait_for(both_work, 1200, every=0.1)
    lost = time.time()
    spread.lose("two")
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    assert max(manifests(output).values()) / 1e9 - lost < NOTICED
    assert digests(output) == by_one_process
