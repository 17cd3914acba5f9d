"""The device that networks run on: which one, how many images fit, and how busy it is."""

import time
from threading import Lock

import torch

from image_longitudinal.core.errors import ConfigError


def default_device(device: str = "auto") -> torch.device:
    """The named device, or for ``auto`` the first accelerator if there is one, else the CPU.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises any of the three
        expected = "auto, cpu, or an accelerator of this machine, such as cuda or cuda:1"
        raise ConfigError("compute.device cannot be used", expected=expected, got=device) from error


def auto_batch_size(device: torch.device, image_size: int) -> int:
    """Images per batch if none is configured: a power of two, halved later if it does not fit.

    On an accelerator a batch has at most as many pixels as 64 images at 512x512: networks reach their full rate well
    below that, and larger batches only take memory. On a CPU it has at most as many as 32 images at 64x64, the fastest
    of 1 to 64 for the demo's network. The size depends on device type and image size alone, so the last bits of an
    image are the same in every run.
    """
    pixels, most = (64 * 512**2, 1024) if device.type != "cpu" else (32 * 64**2, 32)
    fitting = max(1, min(most, pixels // image_size**2))
    return 1 << (fitting.bit_length() - 1)  # a power of two halves evenly


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: torch's own error on accelerators, a message on the CPU, MemoryError from NumPy."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


class DeviceUse:
    """How a process's device spends its time from the first batch on. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._images, self._busy = 0, 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Record that a batch is about to start; the first one starts the clock."""
        with self._lock:
            self._began = self._began or time.perf_counter()

    def add(self, images: int, seconds: float) -> None:
        """Record a finished batch that kept the device busy for ``seconds``."""
        with self._lock:
            self._images += images
            self._busy += seconds

    def take(self) -> dict[str, float]:
        """Images, seconds and busy seconds since the last call; seconds include waiting between shards."""
        with self._lock:
            now = time.perf_counter()
            taken = {"images": self._images, "seconds": now - (self._began or now), "busy_seconds": self._busy}
            self._images, self._busy, self._began = 0, 0.0, now if self._began else None
            return taken
