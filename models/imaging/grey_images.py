"""Grey images as arrays and tensors: uint8 grey levels on disk and in host memory, float32 in 0 to 1 for networks."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ImageRows(Protocol):
    """Grey images that are read a few at a time: an array (n, S, S) uint8, or a view of one on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of some rows, (m, S, S) uint8."""
        ...


def evenly_spaced(images: ImageRows, count: int) -> NDArray[np.uint8]:
    """At most ``count`` images (m, S, S) uint8, evenly spaced over all rows."""
    return images[np.linspace(0, len(images) - 1, min(len(images), count)).astype(int)]


def to_unit(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """Grey levels (B, S, S) uint8 → float32 (B, 1, S, S), values 0 to 1, on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device)[:, None].float() / 255


def as_grey_levels(images: Tensor) -> Tensor:
    """Images (B, 1, S, S), values 0 to 1 → rounded grey levels (B, S, S) uint8, on the same device."""
    return (images[:, 0].float() * 255).round().clamp(0, 255).to(torch.uint8).contiguous()


def to_grey_levels(images: Tensor) -> NDArray[np.uint8]:
    """:func:`as_grey_levels` in host memory."""
    return np.asarray(as_grey_levels(images).cpu().numpy())
