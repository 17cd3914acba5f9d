"""Batches in flight: in order, ahead by two, halved when the device is full, and never more than a few in memory."""

import logging
import threading
import time
from collections.abc import Generator
from threading import Lock

import numpy as np
import pytest
import torch

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging import interface
from image_longitudinal.models.imaging.device import DeviceUse
from image_longitudinal.models.imaging.interface import BatchInFlight, BatchSize, prefetch, render_batches


class Device:
    """Renders each image in the grey level of its seed; has memory for ``room`` images at a time."""

    image_size, latent_dim, digest = 4, 2, ""

    def __init__(self, room: int = 10**6) -> None:
        self.room, self.device_lock = room, Lock()
        self.sizes: list[int] = []
        self.open = self.most_open = 0

    def generate(self, latents: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        return self.start(latents, seeds).wait()

    def start(self, latents: np.ndarray, seeds: np.ndarray) -> BatchInFlight:
        if len(latents) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert self.device_lock.locked()
        self.sizes.append(len(latents))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        levels = torch.from_numpy(seeds % 256).to(torch.uint8)
        return BatchInFlight(levels[:, None, None].expand(-1, 4, 4).contiguous(), seconds=0.5)


def inputs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n, 2), np.float32), np.arange(n) * 3


def run(device: Device, n: int, batch: BatchSize, use: DeviceUse | None = None) -> list[np.ndarray]:
    made = []
    for images in render_batches(device, *inputs(n), batch, use):
        device.open -= 1
        made.append(images)
    return made


@pytest.mark.parametrize(("n", "size"), [(0, 4), (1, 4), (8, 4), (11, 4), (3, 64)])
def test_every_image_comes_once_and_in_order(n: int, size: int) -> None:
    device, use = Device(), DeviceUse()
    made = run(device, n, BatchSize(size), use)
    np.testing.assert_array_equal(np.concatenate([*made, np.empty((0, 4, 4))])[:, 0, 0], np.arange(n) * 3 % 256)
    assert set(device.sizes) <= {size}, "every batch has the same shape"
    assert device.most_open <= interface.IN_FLIGHT
    assert not device.device_lock.locked()
    taken = use.take()
    assert (taken["images"], taken["busy_seconds"]) == (n, 0.5 * len(device.sizes))


def test_the_device_has_its_next_batch_before_the_last_is_asked_for() -> None:
    device = Device()
    stream = render_batches(device, *inputs(12), BatchSize(4))
    next(stream)
    assert len(device.sizes) == interface.IN_FLIGHT == 2
    stream.close()
    assert not device.device_lock.locked()


def test_a_batch_that_does_not_fit_is_halved_permanently(caplog: pytest.LogCaptureFixture) -> None:
    device, batch = Device(room=5), BatchSize(16)
    with caplog.at_level(logging.WARNING):
        made = np.concatenate(run(device, 19, batch))
    np.testing.assert_array_equal(made[:, 0, 0], np.arange(19) * 3)
    assert batch.size == 4
    assert set(device.sizes) == {4}
    assert [record.getMessage() for record in caplog.records] == [
        f"out of device memory at {size} images per batch: continuing with {size // 2}" for size in (16, 8)
    ]


def test_running_out_of_memory_half_way_loses_no_image_and_no_room_for_one_is_an_error() -> None:
    device, batch = Device(), BatchSize(8)
    stream = render_batches(device, *inputs(40), batch)
    made = [next(stream)]
    device.room = 3
    made += list(stream)
    np.testing.assert_array_equal(np.concatenate(made)[:, 0, 0], np.arange(40) * 3)
    assert batch.size == 2
    with pytest.raises(ModelError, match=r"no room for one image.*generator\.precision"):
        run(Device(room=0), 4, BatchSize(4))


def test_two_shards_use_one_device_one_after_the_other() -> None:
    device = Device()
    first = render_batches(device, *inputs(8), BatchSize(4))
    next(first)
    began = threading.Event()

    def second() -> Generator[np.ndarray]:
        began.set()
        yield from render_batches(device, *inputs(8), BatchSize(4))

    background = prefetch(second(), 1)
    waiting = threading.Thread(target=lambda: made.extend(background))
    made: list[np.ndarray] = []
    waiting.start()
    assert began.wait(5)
    time.sleep(0.05)
    assert not made
    list(first)
    waiting.join(5)
    assert sum(map(len, made)) == 8


def test_a_background_thread_stays_so_far_ahead_and_ends_when_closed() -> None:
    made, closed = [], []

    def count() -> Generator[int]:
        try:
            for number in range(1000):
                made.append(number)
                yield number
        finally:
            closed.append(threading.current_thread().name)

    numbers = prefetch(count(), 3)
    assert [next(numbers), next(numbers)] == [0, 1]
    time.sleep(0.1)
    assert len(made) <= 2 + 3 + 1  # taken, queued, and the one in hand
    numbers.close()
    assert closed == ["prefetch"]
    assert len(made) <= 2 + 3 + 1 + 1


def test_an_error_in_the_background_is_raised_where_the_items_are_taken() -> None:
    numbers = prefetch((10 // divisor for divisor in (10, 0)), 3)
    assert next(numbers) == 1
    with pytest.raises(ZeroDivisionError):
        next(numbers)


def test_a_batch_on_a_cpu_gives_images_and_the_time_they_took() -> None:
    def render(z: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        return (seeds[:, None, None] + z[:, :1, None]).to(torch.uint8).expand(-1, 2, 2)

    batch = interface.start_batch(render, torch.device("cpu"), np.ones((3, 2), np.float32), np.arange(3))
    np.testing.assert_array_equal(batch.wait()[:, 0, 0], [1, 2, 3])
    assert batch.seconds > 0
