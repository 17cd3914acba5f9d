"""Slots of the limit ``gpu``: a process's tasks share theirs, others wait, and a device has its next shard at hand.

No GPU is needed: what is named ``cuda`` here computes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError
from image_longitudinal.tasks.engine import gpu_slots as gpu
from image_longitudinal.tasks.engine.cancellation import stopping_tasks
from image_longitudinal.tasks.engine.gpu_slots import GPU_LIMIT, ensure_limit, gpu_slots, holds_gpu_slots
from image_longitudinal.tasks.shards import making as shards

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]

GPU = ComputeConfig(device="auto")


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(name: str) -> object:
        return SimpleNamespace(type="cpu" if name == "cpu" else "cuda")

    monkeypatch.setattr(gpu, "default_device", device)
    monkeypatch.setattr(shards, "default_device", device)


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


def test_tasks_of_one_process_compute_in_one_slot(limit: None) -> None:
    """Each in a slot of its own, the third would wait for half a minute at a time beside an idle device."""
    together, seen = threading.Barrier(3), []

    def task() -> None:
        with gpu_slots(GPU):
            together.wait(60)
            seen.append(taken())
            together.wait(60)

    tasks = [threading.Thread(target=task) for _ in range(3)]
    for thread in tasks:
        thread.start()
    for thread in tasks:
        thread.join()
    assert seen == [1, 1, 1]
    assert taken() == 0


def test_a_task_that_uses_every_gpu_holds_every_slot(limit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found, held in ((2, 2), (8, 2)):  # an operator's limit may be smaller than the host
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: found)
        with gpu_slots(GPU):
            assert taken() == held
        with gpu_slots(ComputeConfig(device="auto", render_processes=1)):
            assert taken() == 1
    assert taken() == 0


@pytest.mark.parametrize("named", ["config", "spec"])
def test_a_task_says_by_its_configuration_or_what_it_makes_where_it_computes(limit: None, named: str) -> None:
    tasks = {"config": lambda key, config: taken(), "spec": lambda key, spec: taken()}
    task = holds_gpu_slots(tasks[named])
    assert task("", **{named: SimpleNamespace(compute=GPU)}) == 1
    assert task("", SimpleNamespace(compute=ComputeConfig(device="cpu"))) == 0


def test_another_process_is_waited_for_and_a_stopped_run_waits_no_more(limit: None) -> None:
    began, ended = threading.Event(), []

    def task() -> None:
        began.set()
        try:
            with gpu_slots(GPU):
                ended.append("computed")
        except ImageLongitudinalError as error:
            ended.append(str(error))

    with ExitStack() as other:  # both slots, as another process takes them
        other.enter_context(concurrency(GPU_LIMIT, occupy=2, strict=True))
        thread = threading.Thread(target=task)
        thread.start()
        began.wait(10)
        thread.join(2)
        assert (ended, taken()) == ([], 2)
        with pytest.raises(KeyboardInterrupt), stopping_tasks():
            raise KeyboardInterrupt
        thread.join(10)
        assert ended == ["stopped with its run; finished shards stay"]
        following = threading.Thread(target=task)  # of the next run, though nothing says that the stopped one is over
        following.start()
        following.join(3)
        assert following.is_alive()
    following.join(60)
    assert ended[1:] == ["computed"]
    for _ in range(600):  # that of the stopped one comes late, and goes at once
        if not taken():
            break
        time.sleep(0.1)
    assert taken() == 0


def test_without_a_limit_on_the_server_nothing_computes() -> None:
    with pytest.raises(ConfigError, match=r"no global concurrency limit 'gpu'.*make deploy"), gpu_slots(GPU):
        pytest.fail("went on without a slot")
    with gpu_slots(ComputeConfig(device="cpu")):
        pass


def test_every_drawing_device_has_its_next_shard_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def width(**compute: object) -> int:
        return shards._width(ComputeConfig.model_validate(compute))

    assert width(device="cpu") == 1
    assert width(device="cpu", workers=3) == 3
    assert width(device="cuda") == 2
    assert width(device="cpu", render_processes=2) == 4
    assert width(device="cuda", executor="dask") == 1, "each of its workers is a process with a model of its own"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert width() == 8
    assert width(workers=20) == 20
