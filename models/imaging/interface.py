"""The interface of every image model, and images from it at the device's full rate: batches in flight, a queue."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.progress import Counter
from image_longitudinal.models.imaging.device import DeviceUse, out_of_memory

T = TypeVar("T")

Render = Callable[[Tensor, Tensor], Tensor]  # latents (B, D), seeds (B,) → grey levels (B, S, S) uint8, on their device

IN_FLIGHT = 2  # batches started on the device before the first is waited for
logger = logging.getLogger(__name__)


@dataclass
class BatchInFlight:
    """A batch of images that the device is rendering or has rendered."""

    images: Tensor  # uint8 (B, S, S) in host memory, valid after wait()
    seconds: float = 0.0  # that the device was busy with the batch, known after wait()
    events: tuple[Any, Any] | None = None  # of a CUDA stream: before and after

    def wait(self) -> NDArray[np.uint8]:
        """Wait for the images (B, S, S)."""
        if self.events is not None:
            before, after = self.events
            after.synchronize()
            self.seconds, self.events = before.elapsed_time(after) / 1e3, None
        return np.asarray(self.images.numpy())


def start_batch(
    render: Render, device: torch.device, latents: NDArray[np.float32], seeds: NDArray[np.int64]
) -> BatchInFlight:
    """Start rendering a batch on ``device``.

    On CUDA this returns once the work is queued. Inputs and images pass through pinned memory in stream order, so the
    next batch can be queued behind this one and the device never pauses between them. On other devices the images are
    finished before it returns. Latents are float32 (B, D), seeds integers (B,).

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    z, s = torch.from_numpy(latents), torch.from_numpy(np.asarray(seeds, np.int64))
    if device.type != "cuda":
        began = time.perf_counter()
        images = render(z.to(device), s.to(device)).cpu()
        return BatchInFlight(images, time.perf_counter() - began)
    with torch.cuda.device(device):
        before = torch.cuda.Event(enable_timing=True)
        after = torch.cuda.Event(enable_timing=True, blocking=True)  # waiting threads sleep: encoders need the cores
        before.record()
        levels = render(z.pin_memory().to(device, non_blocking=True), s.pin_memory().to(device, non_blocking=True))
        images = torch.empty(levels.shape, dtype=levels.dtype, pin_memory=True)
        images.copy_(levels, non_blocking=True)
        after.record()
    return BatchInFlight(images, events=(before, after))


class ImageModel(Protocol):
    """What the pipeline uses of an image model: latents (B, D) float32 and seeds (B,) → images (B, S, S) uint8."""

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that decides a pixel: weights, solver, steps, code version."""
        ...

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (B, S, S) uint8 of latents (B, D); each depends only on its own row and seed."""
        ...


@runtime_checkable
class AsyncImageModel(ImageModel, Protocol):
    """An image model that can start a batch and collect it later."""

    @property
    def device_lock(self) -> AbstractContextManager[Any]:
        """Held while batches are started and collected."""
        ...

    def start(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> BatchInFlight:
        """``generate`` without waiting."""
        ...


@dataclass
class BatchSize:
    """Images per batch. The shards of a process share it, so that a smaller size found for one serves the next."""

    size: int

    def halve(self, error: Exception) -> None:
        """Continue with half as many.

        Raises:
            ModelError: not even one image fits.
        """
        if self.size == 1:
            advice = "free its memory, or set generator.precision=bfloat16"
            raise ModelError("the device has no room for one image", do=advice) from error
        logger.warning("out of device memory at %d images per batch: continuing with %d", self.size, self.size // 2)
        self.size //= 2


def render_batches(
    model: ImageModel,
    latents: NDArray[np.float32],
    seeds: NDArray[np.int64],
    batch: BatchSize,
    use: DeviceUse | None = None,
) -> Generator[NDArray[np.uint8]]:
    """Images uint8 (b, S, S) of latents (n, D), batch after batch, while the device renders the next ones.

    The last batch is padded with copies of its last row. So every batch has the same shape, hence the same arithmetic,
    and the image of a subject is the same bit for bit wherever its shard begins and ends.

    Args:
        model: renders the images; without waiting if it is an :class:`AsyncImageModel`.
        latents, seeds: float32 (n, D) and int64 (n,).
        batch: images per batch; halved if the device runs out of memory.
        use: collects how long the device was busy.

    Raises:
        ModelError: not even one image fits into the device's memory.
    """
    use = use if use is not None else DeviceUse()
    async_model = model if isinstance(model, AsyncImageModel) else None
    in_flight: deque[tuple[int, BatchInFlight]] = deque()
    start = 0
    with async_model.device_lock if async_model else nullcontext():
        while start < len(latents) or in_flight:
            full: Exception | None = None
            while start < len(latents) and len(in_flight) < IN_FLIGHT and full is None:
                use.begin()
                rows = np.minimum(np.arange(start, start + batch.size), len(latents) - 1)
                try:
                    started = _start(model, async_model, latents[rows], seeds[rows])
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    full = error
                else:
                    count = min(batch.size, len(latents) - start)
                    in_flight.append((count, started))
                    start += count
            if full is not None and not in_flight:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # blocks cached for the larger batch
                batch.halve(full)
                continue
            count, oldest = in_flight.popleft()
            images = oldest.wait()
            use.add(count, oldest.seconds)
            yield images[:count]


def _start(
    model: ImageModel, async_model: AsyncImageModel | None, latents: NDArray[np.float32], seeds: NDArray[np.int64]
) -> BatchInFlight:
    if async_model is not None:
        return async_model.start(latents, seeds)
    began = time.perf_counter()
    images = torch.from_numpy(model.generate(latents, seeds))
    return BatchInFlight(images, time.perf_counter() - began)


def generate_in_batches(
    model: ImageModel, latents: NDArray[np.float32], seeds: NDArray[np.int64], batch_size: int
) -> NDArray[np.uint8]:
    """Images (n, S, S) uint8 of latents (n, D); see :func:`render_batches`."""
    images = np.empty((len(latents), model.image_size, model.image_size), np.uint8)
    start, counter = 0, Counter("generate images", len(latents), "images")
    for batch in render_batches(model, latents, seeds, BatchSize(batch_size)):
        images[start : start + len(batch)] = batch
        start += len(batch)
        counter.update(start)
    return images


def prefetch(items: Generator[T], depth: int) -> Generator[T]:
    """The same items, produced in a background thread that is at most ``depth`` items ahead.

    An error of the background thread is raised here. The thread ends when this generator is closed.
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
            items.close()  # in this thread and at once: it may hold a lock that other threads wait for

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
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
