"""From latents to images at the device's pace: batches ahead, bounded queues, smaller batches where needed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from queue import Full, Queue
from typing import Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.device import DeviceUse, Launched, out_of_memory

T = TypeVar("T")

AHEAD = 2  # batches handed to the device before the first is waited for
logger = logging.getLogger(__name__)


class Drawing(Protocol):
    """The part of :class:`models.imaging.interface.ImageModel` that is needed here."""

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (B, S, S) uint8 of latents (B, D)."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A model that can be handed a batch without waiting for it, by one thread at a time."""

    @property
    def turn(self) -> AbstractContextManager[bool]:
        """Held while batches are launched."""
        ...

    def launch(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> Launched:
        """``generate`` without waiting."""
        ...


@dataclass
class BatchSize:
    """Images at a time; shared by the shards of a process, so that what one finds out serves the next."""

    size: int

    def halve(self, error: Exception) -> None:
        """Go on with half as many.

        Raises:
            ModelError: not even one image fits.
        """
        if self.size == 1:
            raise ModelError(
                "the device has no room for one image", do="free its memory, or set generator.precision=bfloat16"
            ) from error
        logger.warning("out of device memory with %d images at a time: going on with %d", self.size, self.size // 2)
        self.size //= 2


def stream_images(
    model: Drawing,
    latents: NDArray[np.float32],
    seeds: NDArray[np.int64],
    batch: BatchSize,
    use: DeviceUse | None = None,
) -> Generator[NDArray[np.uint8]]:
    """Images uint8 (b, S, S) of latents (n, D), batch after batch, while the device is at work on the next ones.

    The last batch is filled up with copies of its last row: every batch has the same shape, hence the same arithmetic,
    so the image of a subject is the same bit for bit wherever its shard begins and ends.

    Raises:
        ModelError: not even one image fits into the device's memory.
    """
    use = use if use is not None else DeviceUse()
    device_model = model if isinstance(model, OnDevice) else None
    launched: deque[tuple[int, Launched]] = deque()
    start = 0
    with device_model.turn if device_model else nullcontext():
        while start < len(latents) or launched:
            short: Exception | None = None
            while start < len(latents) and len(launched) < AHEAD and short is None:
                use.begin()
                rows = np.minimum(np.arange(start, start + batch.size), len(latents) - 1)
                try:
                    on_its_way = _launch(model, device_model, latents[rows], seeds[rows])
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    short = error
                else:
                    count = min(batch.size, len(latents) - start)
                    launched.append((count, on_its_way))
                    start += count
            if short is not None and not launched:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # pieces cut for the larger batch
                batch.halve(short)
                continue
            count, oldest = launched.popleft()
            images = oldest.wait()
            use.add(count, oldest.seconds)
            yield images[:count]


def _launch(
    model: Drawing, device_model: OnDevice | None, latents: NDArray[np.float32], seeds: NDArray[np.int64]
) -> Launched:
    if device_model is not None:
        return device_model.launch(latents, seeds)
    began = time.perf_counter()
    images = torch.from_numpy(model.generate(latents, seeds))
    return Launched(images, time.perf_counter() - began)


def in_background(items: Generator[T], depth: int) -> Generator[T]:
    """The same items, made in a thread of their own that is at most ``depth`` ahead.

    What goes wrong there is raised here; when nobody asks for more, the thread ends.
    """
    queue: Queue[tuple[bool, object]] = Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, object]) -> None:
        while not stopped.is_set():
            with suppress(Full):
                queue.put(entry, timeout=0.1)
                break

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    break
            put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            items.close()  # here and now: what it holds, the device's turn for one, others wait for

    thread = threading.Thread(target=work, name="drawing", daemon=True)
    thread.start()
    try:
        while True:
            more, item = queue.get()
            if more:
                yield cast(T, item)
            elif item is None:
                return
            else:
                raise cast(BaseException, item)
    finally:
        stopped.set()
        thread.join()
