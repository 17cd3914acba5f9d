"""Several drawing processes on one machine, one of them killed at its work: the data are those of one process."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from image_longitudinal.core.config import ComputeConfig, Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.host_workers import HostWorkers, worker_devices
from image_longitudinal.tasks.shards.image_shards import ImageJob, image_model, make_image_shard
from image_longitudinal.tasks.shards.spec import DatasetSpec
from tests.e2e.conftest import digests

SIDE, SHARD, N = 64, 150, 450


def make_spec(workspace: Path, device: str = "cpu") -> DatasetSpec:
    config = Config.model_validate(
        {
            "generator": {"backend": "phantom", "image_size": SIDE, "latent_dim": 6, "batch_size": 16},
            "dataset": {"n_subjects": N, "shard_size": SHARD},
            "compute": {"device": device, "render_processes": 2},
        }
    )
    model = image_model(str(workspace), None, config.generator, "cpu")
    return DatasetSpec(
        config=config, workspace=str(workspace), model_version=None, model_digest=model.digest, image_size=SIDE,
        latent_dim=6, entries=(0, 1, 2),
    )  # fmt: skip


def prepare(output: Path) -> str:
    create_image_arrays(open_root(output), n=N, height=SIDE, width=SIDE, latent_dim=6, shard_size=SHARD)
    return str(output)


def test_a_killed_process_costs_its_current_shard_and_nothing_else(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    alone, together = prepare(tmp_path / "alone"), prepare(tmp_path / "together")
    for index in range(3):
        make_image_shard(ImageJob(spec, index, alone))

    workers = HostWorkers(["cpu", "cpu"])
    killed: list[int] = []

    def kill_one_at_work() -> None:
        """The shard it draws is on disk under a temporary name only."""
        shards = tmp_path / "together" / "images.zarr" / "image" / "c"
        while not any(shards.rglob("*.tmp*")) and not any(shards.rglob(".*")):
            time.sleep(0.002)
        killed.append(workers.pids[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda index: workers.run(ImageJob(spec, index, together)), range(3)))
        killer.join(10)
        assert workers.lost == 1
        assert killed
        assert killed[0] not in workers.pids
        assert len(workers.pids) == 2
        with pytest.raises(ConfigError, match="unknown"):  # what goes wrong in a worker is raised here
            workers.run(ImageJob(unknown_backend(spec), 0, together))
    finally:
        workers.close()
    left = {path for path in digests(tmp_path / "together") if Path(path).name.startswith(".")}
    assert len(left) <= 1  # of the killed one; a run's start sweeps such files away
    whole = digests(tmp_path / "together")
    assert {path: whole[path] for path in whole if path not in left} == digests(tmp_path / "alone")
    assert sum(result.use["images"] for result in made) == N
    assert {result.use["batch_size"] for result in made} == {16}


def unknown_backend(spec: DatasetSpec) -> DatasetSpec:
    generator = spec.config.generator.model_copy(update={"backend": "gan"})
    return spec.model_copy(update={"config": spec.config.model_copy(update={"generator": generator})})


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
