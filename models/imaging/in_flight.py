"""Batches in flight: started on a device without waiting, collected when done, with the time they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Render = Callable[[Tensor, Tensor], Tensor]  # latents (B, D), seeds (B,) → grey levels (B, S, S) uint8, on their device


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
    finished before it returns.

    Args:
        render: see :data:`Render`.
        device: where to render.
        latents: float32 (B, D).
        seeds: integers (B,), one per image.

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
