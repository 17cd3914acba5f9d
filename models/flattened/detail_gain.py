"""A gain for the detail of finished images at each grey level, in closed form.

A network that was trained for minutes or hours draws nearly as much detail as scans have, but at the wrong grey levels:
at 64x64 its local variance is 2.5 times that of scans in the darkest pixels and 0.8 times in the bright retina. So
detail is split into two bands, and each is multiplied by a function of the local grey level, such that its mean square
at every grey level becomes that of scans. 48 numbers hold nothing of a single scan, and cost no training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SIGMAS = (0.8, 2.0)  # pixels: detail finer than the first, and between both; coarser detail is left as it is
LEVELS = 24  # ranges of local grey with as many pixels of scans each
LEAST_PIXELS = 50  # of generated images in a range: with fewer its gain is 1
GREATEST = 4.0  # gain, and its inverse


class DetailGain(NamedTuple):
    """``gain`` (2, 24) of the two bands at local grey levels ``grey`` (24,), increasing, 0 to 1; linear in between."""

    grey: Tensor
    gain: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Images (B, 1, S, S), values 0 to 1, with their detail multiplied, clamped to 0 to 1."""
        bands, local = split(images)
        place = torch.bucketize(local, self.grey).clamp(1, len(self.grey) - 1)
        below, above = self.grey[place - 1], self.grey[place]
        share = ((local - below) / (above - below).clamp(min=1e-6)).clamp(0, 1)
        for band, gain in zip(bands, self.gain, strict=True):
            local = local + band * torch.lerp(gain[place - 1], gain[place], share)
        return local.clamp(0, 1)


def fit_detail_gain(generated: Tensor, scans: Tensor) -> DetailGain:
    """The gain with which generated images have the detail of scans, both (n, 1, S, S), values 0 to 1, any n."""
    bands, local = split(scans)
    ordered = local.flatten().sort().values
    edges = ordered[torch.arange(1, LEVELS, device=local.device) * len(ordered) // LEVELS]
    count, grey, wanted = _mean_squares(bands, local, edges)
    grey = torch.where(count > 0, grey, torch.cat([edges, edges[-1:]]))  # scans of few grey levels leave ranges empty
    count, _, found = _mean_squares(*split(generated), edges)
    gain = (wanted / found.clamp(min=1e-12)).sqrt().clamp(1 / GREATEST, GREATEST)
    return DetailGain(grey, torch.where(count >= LEAST_PIXELS, gain, 1.0))


def split(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Two bands of detail of images (B, 1, S, S), and their local grey level; the sum of all three is the image."""
    bands, left = [], images
    for sigma in SIGMAS:
        smooth = _gaussian(images, sigma)
        bands.append(left - smooth)
        left = smooth
    return bands, left


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    """Images (B, 1, S, S) smoothed, edges repeated.

    By sums of shifted images: the rounding of a convolution depends on the batch.
    """
    reach = int(4 * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (2, 3):
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        padded = torch.nn.functional.pad(images, padding, mode="replicate")
        size = images.shape[axis]
        images = torch.zeros_like(images)
        for place, weight in enumerate(weights.tolist()):
            images = images + weight * padded.narrow(axis, place, size)
    return images


def _mean_squares(bands: list[Tensor], local: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (24,), mean local grey (24,) and mean squares (2, 24) of the bands in each range of local grey."""
    index = torch.bucketize(local, edges).flatten()
    count = torch.bincount(index, minlength=LEVELS)

    def mean(values: Tensor) -> Tensor:
        sums = torch.bincount(index, weights=values.flatten().double(), minlength=LEVELS)
        return (sums / count.clamp(min=1)).to(values)

    return count, mean(local), torch.stack([mean(band.square()) for band in bands])
