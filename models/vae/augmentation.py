"""Training and evaluation views of images: mirror and vertical crop, as in the original."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit
from image_longitudinal.models.training.step_random import batch_indices, step_generator

CROP = 190 / 224  # rows kept by the vertical crop


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images (B, 1, S, S), values 0 to 1, left-right, and crop each at a random height.

    The result shows windows of 190/224 of the rows, resized to S rows (bilinear, antialiased). The generator is on the
    CPU and gives two random numbers per image.
    """
    size = images.shape[-2]
    rows = round(size * CROP)
    mirror = torch.rand(len(images), generator=generator) < 0.5
    tops = torch.randint(0, size - rows + 1, (len(images),), generator=generator)
    images = torch.where(mirror.to(images.device)[:, None, None, None], images.flip(-1), images)
    index = (tops[:, None] + torch.arange(rows)).to(images.device)
    cropped = images.gather(2, index[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[-1]))
    return _resize(cropped, size)


def augmented_batch(
    images: ImageRows, batch_size: int, seed: int, stage: str, step: int, device: torch.device
) -> tuple[Tensor, torch.Generator]:
    """The augmented batch of a step, and the step's generator (on the CPU), from which the loss takes further numbers.

    Images are uint8 (n, S, S), the batch float32 (B, 1, S, S), values 0 to 1; ``stage`` names the random stream.
    """
    generator = step_generator(seed, stage, step)
    rows = batch_indices(len(images), batch_size, seed, stage, step)
    return augment(to_unit(images[rows], device), generator), generator


def centre_view(images: Tensor) -> Tensor:
    """The evaluation view of images (B, 1, S, S): the centre window of 190/224 of the rows, resized to S rows."""
    size = images.shape[-2]
    rows = round(size * CROP)
    top = (size - rows) // 2
    return _resize(images[:, :, top : top + rows], size)


def centre_views(images: ImageRows, device: torch.device, batch: int) -> Iterator[Tensor]:
    """Evaluation views (b, 1, S, S) on ``device`` of all images (n, S, S) uint8, at most ``batch`` at a time."""
    for start in range(0, len(images), batch):
        yield centre_view(to_unit(images[slice(start, start + batch)], device))


def _resize(images: Tensor, size: int) -> Tensor:
    return interpolate(images, (size, images.shape[-1]), mode="bilinear", antialias=True).clamp(0, 1)
