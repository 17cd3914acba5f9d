"""Several rendering processes on one machine, one of them killed while rendering: the data equal those of one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.host_workers import HostWorkers, worker_devices
from image_longitudinal.tasks.shards.image_shards import render_shard
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec
from image_longitudinal.tasks.workspace import Workspace
from tests.e2e.conftest import digests

SIDE, SHARD, N = 64, 150, 450


def image_job(workspace: Path, output: str, index: int, backend: str = "phantom") -> tuple[ImageSpec, str, Execution]:
    """Arguments that render a shard."""
    config = Config.model_validate({
        "generator": {"backend": "phantom", "image_size": SIDE, "latent_dim": 6, "batch_size": 16},
        "dataset": {"n_subjects": N, "shard_size": SHARD},
        "compute": {"device": "cpu", "render_processes": 2},
    })  # fmt: skip
    images = ImageSpec.of(config, describe(config.generator, None)).of_shard(config.dataset.plan.shard(index))
    execution = Execution.of(config, None, Workspace(workspace))
    generator = config.generator.model_copy(update={"backend": backend})
    return images, output, execution.model_copy(update={"generator": generator})


def prepare(output: Path) -> str:
    create_image_arrays(open_root(output), n=N, height=SIDE, width=SIDE, latent_dim=6, shard_size=SHARD)
    return str(output)


def test_a_killed_process_costs_its_current_shard_and_nothing_else(tmp_path: Path) -> None:
    alone, together = prepare(tmp_path / "alone"), prepare(tmp_path / "together")
    for index in range(3):
        render_shard(*image_job(tmp_path, alone, index))

    workers = HostWorkers(["cpu", "cpu"])
    killed: list[int] = []

    def kill_one_at_work() -> None:
        """The shard that it renders is on disk under a temporary name only."""
        shards = tmp_path / "together" / "images.zarr" / "image" / "c"
        while not any(shards.rglob("*.tmp*")) and not any(shards.rglob(".*")):
            time.sleep(0.002)
        killed.append(pids()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda index: workers.render(*image_job(tmp_path, together, index)), range(3)))
        killer.join(10)
        assert workers.lost == 1
        assert killed
        assert killed[0] not in pids()
        with pytest.raises(ConfigError, match="unknown"):  # errors in a process are raised here
            workers.render(*image_job(tmp_path, together, 0, backend="gan"))
        spec, *others = image_job(tmp_path, together, 0)
        with pytest.raises(ModelError, match="not the one of this data set"):
            workers.render(spec.model_copy(update={"generator": digest_of("another")}), *others)
    finally:
        workers.close()
    assert pids() == []
    with pytest.raises(ModelError, match="were stopped"):
        workers.render(*image_job(tmp_path, together, 0))
    left = {path for path in digests(tmp_path / "together") if Path(path).name.startswith(".")}
    assert len(left) <= 1  # of the killed process; a run removes such files when it starts
    whole = digests(tmp_path / "together")
    assert {path: whole[path] for path in whole if path not in left} == digests(tmp_path / "alone")
    uses = [result.use for result in made if result.use]
    assert sum(use.images for use in uses) == N
    assert {use.batch_size for use in uses} == {16}


def pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid]


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """A killed flow must not leave processes that occupy a GPU."""
    program = tmp_path / "parent.py"
    program.write_text(
        "from image_longitudinal.tasks.shards.host_workers import HostWorkers\n"
        "import multiprocessing, os, signal\n"
        "if __name__ == '__main__':\n"
        "    workers = HostWorkers(['cpu'])\n"
        "    device, executor = workers._idle.get()\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    (child,) = map(int, parent.stdout.split())
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the process outlived its parent"
        time.sleep(0.05)


def test_which_devices_get_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def devices(**compute: object) -> list[str]:
        return worker_devices(ComputeConfig.model_validate(compute))

    assert devices(device="cpu") == []
    assert devices(device="cpu", render_processes=1) == []
    assert devices(device="cpu", render_processes=3) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices() == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert devices(render_processes=6) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0", "cuda:1"]
    assert devices(render_processes=1) == []
    assert devices(device="cuda:2") == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices() == []
