"""Batches on their way through a device: handed over without waiting, taken back when done, and the time they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Draw = Callable[[Tensor, Tensor], Tensor]  # latents (B, D), seeds (B,) → grey levels (B, S, S) uint8, on their device


@dataclass
class Launched:
    """Images that the device is at work on, or has made."""

    images: Tensor  # uint8 (B, S, S) in host memory, valid once waited for
    seconds: float = 0.0  # that the device was busy with them, known once waited for
    events: tuple[Any, Any] | None = None  # of a CUDA stream: before and after

    def wait(self) -> NDArray[np.uint8]:
        """The images, as soon as they are there."""
        if self.events is not None:
            before, after = self.events
            after.synchronize()
            self.seconds, self.events = before.elapsed_time(after) / 1e3, None
        return np.asarray(self.images.numpy())


def launch(draw: Draw, device: torch.device, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> Launched:
    """Start drawing a batch on ``device``.

    On CUDA this returns once the work is queued: inputs and images pass through pinned memory in the stream's own
    order, so the next batch can be queued behind this one and the device goes from one to the next without a pause.
    Elsewhere the images are made before it returns.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    z, s = torch.from_numpy(latents), torch.from_numpy(np.asarray(seeds, np.int64))
    if device.type != "cuda":
        began = time.perf_counter()
        images = draw(z.to(device), s.to(device)).cpu()
        return Launched(images, time.perf_counter() - began)
    with torch.cuda.device(device):
        before = torch.cuda.Event(enable_timing=True)
        after = torch.cuda.Event(enable_timing=True, blocking=True)  # who waits sleeps, and leaves its core to encoders
        before.record()
        levels = draw(z.pin_memory().to(device, non_blocking=True), s.pin_memory().to(device, non_blocking=True))
        images = torch.empty(levels.shape, dtype=levels.dtype, pin_memory=True)
        images.copy_(levels, non_blocking=True)
        after.record()
    return Launched(images, events=(before, after))


def auto_batch_size(device: torch.device, image_size: int) -> int:
    """The batch to begin with where none is asked for; halved when it does not fit.

    On an accelerator as many images as have the pixels of 64 at 512x512: a network is at its full rate well before, and
    a larger batch only takes memory. On a CPU as many as have the pixels of 32 at 64x64, the fastest of 1 to 64 for the
    demo's network. It depends on nothing that changes from run to run, so neither do the last bits of an image.
    """
    pixels, most = (64 * 512**2, 1024) if device.type != "cpu" else (32 * 64**2, 32)
    fitting = max(1, min(most, pixels // image_size**2))
    return 1 << (fitting.bit_length() - 1)  # a power of two halves evenly


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on accelerators torch has a type for it, on a CPU words, and NumPy Python's own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class DeviceUse:
    """How a process's device spends its time from the first batch on; told and asked by any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._images, self._busy = 0, 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """A batch is about to be launched; the first one starts the clock."""
        with self._lock:
            self._began = self._began or time.perf_counter()

    def add(self, images: int, seconds: float) -> None:
        """A batch came back, after keeping the device busy for ``seconds``."""
        with self._lock:
            self._images += images
            self._busy += seconds

    def take(self) -> dict[str, float]:
        """Images, seconds and busy seconds since the last time; waiting between shards is part of the seconds."""
        with self._lock:
            now = time.perf_counter()
            taken = {"images": self._images, "seconds": now - (self._began or now), "busy_seconds": self._busy}
            self._images, self._busy, self._began = 0, 0.0, now if self._began else None
            return taken
