"""Grey images as arrays and tensors: uint8 grey levels on disk and in host memory, float32 in 0 to 1 for networks."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.errors import ModelError


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
    """Images (B, 1, S, S), values 0 to 1 → rounded grey levels (B, S, S) uint8, on the same device.

    An image with a value that is not finite becomes black all over, which :func:`check_images` refuses.
    """
    levels = (images[:, 0].float() * 255).round().clamp(0, 255)
    finite = torch.isfinite(images[:, 0]).all(dim=2).all(dim=1)  # no transfer: the device goes on
    return torch.where(finite[:, None, None], levels, 0).to(torch.uint8).contiguous()


def check_images(images: NDArray[np.uint8], first: int) -> None:
    """Refuse images (B, S, S) uint8 that no model makes of latents on purpose; ``first`` is the first one's subject.

    Raises:
        ModelError: an image has one grey level all over (also if its values were not finite), or all are the same.
    """
    flat = images.reshape(len(images), -1)
    constant = np.flatnonzero(flat.min(1) == flat.max(1))
    if len(constant):
        raise ModelError(
            "the image model made an image without content", where=f"subject {first + int(constant[0])}",
            expected="different grey levels", got=f"level {flat[constant[0], 0]} all over, or no finite values",
            do="use another model, or train it longer or with a lower learning rate",
        )  # fmt: skip
    if len(flat) > 1 and (flat == flat[0]).all():
        raise ModelError(
            "the image model made the same image of different latents",
            where=f"subjects {first} to {first + len(flat) - 1}",
            do="use another model: this one does not use its latents",
        )  # fmt: skip


def to_grey_levels(images: Tensor) -> NDArray[np.uint8]:
    """:func:`as_grey_levels` in host memory."""
    return np.asarray(as_grey_levels(images).cpu().numpy())
