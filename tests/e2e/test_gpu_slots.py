"""Slots of the limit ``gpu``: held while a run renders or trains, and other runs wait.

No GPU is needed: what is named ``cuda`` here computes nothing.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.flows.generate_dataset import specify
from image_longitudinal.storage.dataset.images import create_image_arrays
from image_longitudinal.storage.dataset.manifest import read_shard_manifest
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.engine import gpu_slots as gpu
from image_longitudinal.tasks.engine.gpu_slots import GPU_LIMIT, ensure_limit, gpu_slots, holds_gpu_slots
from image_longitudinal.tasks.shards import making
from image_longitudinal.tasks.shards.image_shards import ShardPartResult
from image_longitudinal.tasks.shards.making import DatasetRun, make_here
from image_longitudinal.tasks.shards.parts import ReusableParts
from image_longitudinal.tasks.shards.specs import Execution
from image_longitudinal.tasks.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

GPU = ComputeConfig(device="auto")


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(name: str) -> object:
        return SimpleNamespace(type="cpu" if name == "cpu" else "cuda")

    monkeypatch.setattr(gpu, "default_device", device)
    monkeypatch.setattr(making, "default_device", device)


@pytest.fixture
def limit() -> Iterator[None]:
    """Two slots, as on a host with two GPUs."""
    with get_client(sync_client=True) as client:
        assert ensure_limit(client, 2) == 2
        yield
        client.delete_global_concurrency_limit_by_name(GPU_LIMIT)


def taken() -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots


def test_a_task_that_uses_every_gpu_holds_every_slot(limit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found, held in ((2, 2), (8, 2)):  # an operator's limit may be smaller than the host
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: found)
        with gpu_slots(GPU):
            assert taken() == held
        with gpu_slots(ComputeConfig(device="auto", render_processes=1)):
            assert taken() == 1
    assert taken() == 0


def test_a_task_holds_the_slots_that_its_argument_compute_asks_for(limit: None) -> None:
    task = holds_gpu_slots(lambda key, compute: taken())
    assert task("", compute=GPU) == 1
    assert task("", ComputeConfig(device="cpu")) == 0


def test_a_run_waits_for_another_process_and_a_cancelled_one_stops_waiting(limit: None) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
    with ExitStack() as other:  # both slots, as another process takes them
        other.enter_context(concurrency(GPU_LIMIT, occupy=2, strict=True))
        canceller = threading.Timer(2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        canceller.start()
        with pytest.raises(KeyboardInterrupt), gpu_slots(GPU):
            pytest.fail("did not wait")
        signal.signal(signal.SIGINT, before)
        assert taken() == 2
        waiting = threading.Timer(1, other.close)
        began = time.monotonic()
        waiting.start()
        waiting.join()
    with gpu_slots(GPU):
        assert taken() in (1, 2)  # the slot that the cancelled run had asked for is granted and given back at once
    assert time.monotonic() - began < 60
    for _ in range(600):
        if not taken():
            break
        time.sleep(0.1)
    assert taken() == 0


def test_a_run_holds_its_slot_from_the_first_shard_to_the_last(
    limit: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without a slot asks again only after up to half a minute; the device would be idle that long."""
    config = load_config("demo", overrides=[
        "generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=24", "dataset.shard_size=4",
        "dataset.association=[1.0]", "dataset.eta_dims=[0, 1, 2]", "seed=8128",
    ])  # fmt: skip
    workspace, root = Workspace(tmp_path), open_root(tmp_path / "data")
    spec, execution = specify(config, None, workspace), Execution.of(config, None, workspace)
    create_image_arrays(root, n=24, height=32, width=32, latent_dim=spec.images.latent_dim, shard_size=4)
    found = ReusableParts()

    @flow(name="shards-of-a-test")
    def shards() -> list[int]:
        with closing(make_here(DatasetRun(root, spec, execution, found), dict.fromkeys(range(6), "test"))) as making:
            held = [taken() for _ in making]
        return [*held, taken()]

    assert shards() == [1] * 6 + [0]
    parts = {index: read_shard_manifest(root, index).parts["image"] for index in range(6)}  # type: ignore[union-attr]
    results = {index: ShardPartResult(root=root.url, part=part) for index, part in parts.items()}
    found = ReusableParts(images=results)
    assert shards() == [0] * 7, "nothing is rendered"


def test_without_a_limit_on_the_server_nothing_is_computed() -> None:
    with pytest.raises(ConfigError, match=r"no global concurrency limit 'gpu'.*make deploy"), gpu_slots(GPU):
        pytest.fail("went on without a slot")
    with gpu_slots(ComputeConfig(device="cpu")):
        pass


def test_every_rendering_device_has_a_second_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    def width(**compute: object) -> int:
        return making._width(ComputeConfig.model_validate(compute))

    assert width(device="cpu") == 1
    assert width(device="cpu", concurrent_shards=3) == 3
    assert width(device="cuda") == 2
    assert width(device="cpu", render_processes=2) == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert width() == 8
    assert width(concurrent_shards=20) == 20
