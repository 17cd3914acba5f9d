"""The same data set by threads, and by a Dask cluster that loses a worker: bit for bit the same."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.flows.generate_dataset import generate_dataset
from tests.e2e.conftest import digests

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

SHARDS = 16
PHANTOM = (
    "generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "compute.concurrent_shards=2",
    f"dataset.n_subjects={8 * SHARDS}", "dataset.shard_size=8", "seed=57721",
)  # fmt: skip


def test_a_dask_cluster_that_loses_a_worker_makes_what_threads_make(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    pytest.importorskip("prefect_dask")
    by_threads, by_dask = tmp_path / "threads", tmp_path / "dask"
    workspace = str(tmp_path / "work")
    generate_dataset(str(by_threads), config=tiny(*PHANTOM), workspace=workspace)

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(by_dask, killed), daemon=True)
    killer.start()
    # refresh: else the results of the first run would be found, and nothing be left to do
    generate_dataset(str(by_dask), config=tiny(*PHANTOM, "compute.executor=dask"), workspace=workspace, refresh=True)
    killer.join(1)
    assert killed, "the run ended before a worker could be killed"
    assert digests(by_dask) == digests(by_threads)


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """kill -9 to one process of the cluster, in the midst of its work."""
    while len(list(output.glob("shards/*.json"))) < 3:
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()) and process.name().startswith("python"):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
                return
