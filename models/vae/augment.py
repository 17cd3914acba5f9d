"""Augmentation of training images: mirror and vertical crop, as the original does it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CROP = 190 / 224  # rows kept by the vertical crop


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images left-right and crop each at a random height.

    Args:
        images: (B, 1, S, S), values 0 to 1, on any device.
        generator: on the CPU; two draws per image.

    Returns:
        (B, 1, S, S): random windows of 190/224 of the rows, resized to S rows (bilinear, antialiased).
    """
    size = images.shape[-2]
    rows = round(size * CROP)
    mirror = torch.rand(len(images), generator=generator) < 0.5
    tops = torch.randint(0, size - rows + 1, (len(images),), generator=generator)
    images = torch.where(mirror.to(images.device)[:, None, None, None], images.flip(-1), images)
    index = (tops[:, None] + torch.arange(rows)).to(images.device)
    cropped = images.gather(2, index[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[-1]))
    return _resize(cropped, size)


def centre(images: Tensor) -> Tensor:
    """The evaluation view of images (B, 1, S, S): the centre window of 190/224 of the rows, resized to S rows."""
    size = images.shape[-2]
    rows = round(size * CROP)
    top = (size - rows) // 2
    return _resize(images[:, :, top : top + rows], size)


def _resize(images: Tensor, size: int) -> Tensor:
    return interpolate(images, (size, images.shape[-1]), mode="bilinear", antialias=True).clamp(0, 1)
