"""A Dask cluster at an address whose scheduler dies: one line, at once, and the finished shards stay."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import cli_arguments, cli_environment
from tests.e2e.test_recovery import manifests

pytestmark = pytest.mark.e2e


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_scheduler_is_one_line_and_costs_the_shards_in_hand(tmp_path: Path) -> None:
    pytest.importorskip("prefect_dask")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    overrides = (
        "generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "dataset.n_subjects=2400",
        "dataset.shard_size=8", "compute.executor=dask", f"compute.dask_address={address}",
    )  # fmt: skip
    arguments = cli_arguments("generate", *(f"--set={one}" for one in overrides), "--output", "data")
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])
    worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")
    with started(*scheduler, "--no-dashboard") as first, started(*worker):
        command = subprocess.Popen(
            arguments, cwd=tmp_path, env=cli_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + 400
            while len(manifests(tmp_path / "data")) < 2:
                assert command.poll() is None, command.communicate()
                assert time.monotonic() < until
                time.sleep(0.05)
            first.kill()
            _, errors = command.communicate(timeout=120)
        finally:
            command.kill()
    assert command.returncode == 1
    assert "Traceback" not in errors, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert f"the Dask scheduler is gone ({address})" in line
    assert "run the same command again: finished shards are kept" in line
    assert len(manifests(tmp_path / "data")) >= 2
