"""Copies of training scans among images, found by correlation whatever was done to them.

An image is compared with every training scan over all small shifts, mirrored or not, cropped as in training or not,
after both are smoothed and brought to mean 0 and norm 1: blur, grain, brightness and contrast do not hide a copy.
Retinas are alike, so how near the nearest one is says little; a copy is much nearer to one training scan than to the
others.
``benchmarks.copies`` plants copies among scans of other patients, ``benchmarks.clean_models`` among images of models
that were trained on the copied scans; both say how many are found.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced, to_unit
from image_longitudinal.models.registry.metadata import CopyFigures
from image_longitudinal.models.vae.augmentation import centre_view

SIDE = 64  # pixels a side at which images are compared
REACH = 8  # pixels: the largest shift, an eighth of the side; crops at other heights are within it
SMOOTHING = 0.7  # pixels, standard deviation of the Gaussian filter
OTHERS = 0.1  # quantile of an image's distances to all training scans that stands for "the others"
COPY_BELOW = 0.23  # of the distance to the others: copies reach 0.21, other patients' scans 0.245 (benchmarks.copies)
BATCH = 32
MOST_SCANS = 4000  # training scans: with 512 images, some minutes of a core


class NearestScan(NamedTuple):
    """For each image (n,): the nearest training scan, its distance (1 - correlation), and that over the others'."""

    scan: NDArray[np.int64]
    distance: NDArray[np.float64]
    ratio: NDArray[np.float64]

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Which images are copies, (n,)."""
        return self.ratio < COPY_BELOW


def copy_figures(generated: NDArray[np.uint8], held_out: NDArray[np.uint8], training: ImageRows) -> CopyFigures:
    """Copies among generated images and, for comparison, among scans of new patients.

    All are uint8 (n, S, S), each with its own n. Of more than :data:`MOST_SCANS` training scans, as many are looked at,
    evenly spaced.
    """
    known = evenly_spaced(training, MOST_SCANS)
    made, new = nearest_scans(generated, known), nearest_scans(held_out, known)
    return CopyFigures(
        images=len(generated), scans=len(known), share=float(made.copies.mean()),
        held_out_share=float(new.copies.mean()), least_ratio=float(made.ratio.min()),
        held_out_least_ratio=float(new.ratio.min()),
    )  # fmt: skip


def nearest_scans(images: NDArray[np.uint8], training: ImageRows) -> NearestScan:
    """Look for each image (n, S, S) uint8 among training scans (m, S, S) uint8."""
    return nearest_of(correlation_distances(images, training))


def nearest_of(distances: NDArray[np.float64]) -> NearestScan:
    """The nearest scan of each image from distances (n, m)."""
    index = distances.argmin(1)
    nearest = distances[np.arange(len(distances)), index]
    others = np.quantile(distances, OTHERS, axis=1)
    return NearestScan(index, nearest, nearest / np.maximum(others, 1e-9))


def correlation_distances(images: NDArray[np.uint8], training: ImageRows) -> NDArray[np.float64]:
    """1 less the largest correlation of images (n, S, S) with each training scan (m, S, S), (n, m), from 0 to 2."""
    own = torch.fft.rfft2(_standardised(_small(to_unit(images, "cpu")))).conj()
    found = torch.full((len(images), len(training)), -1.0)
    for start in range(0, len(training), BATCH):
        scans = to_unit(training[slice(start, start + BATCH)], "cpu")
        for view in (scans, centre_view(scans)):
            for one in (view, view.flip(-1)):
                other = torch.fft.rfft2(_standardised(_small(one)))
                columns = slice(start, start + len(scans))
                for row, image in enumerate(own):
                    correlation = _within_reach(torch.fft.irfft2(image * other, s=(SIDE, SIDE)))
                    found[row, columns] = torch.maximum(found[row, columns], correlation)
    return (1 - found).clamp(min=0).double().numpy()


def _within_reach(correlation: Tensor) -> Tensor:
    """The largest of (b, 64, 64) over shifts of at most 8 pixels in both directions, (b,)."""
    for axis in (1, 2):
        ends = correlation.narrow(axis, 0, REACH + 1), correlation.narrow(axis, SIDE - REACH, REACH)
        correlation = torch.cat(ends, axis)
    return correlation.amax((1, 2))


def _small(images: Tensor) -> Tensor:
    """Images (b, 1, S, S) at 64 pixels a side, (b, 64, 64)."""
    if images.shape[-1] != SIDE:
        images = interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
    return images[:, 0]


def _standardised(images: Tensor) -> Tensor:
    """Images (b, 64, 64) smoothed, with mean 0 and norm 1."""
    frequency = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None]
    gain = torch.exp(-2 * (torch.pi * SMOOTHING) ** 2 * (frequency[0] ** 2 + frequency[1] ** 2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(images) * gain, s=(SIDE, SIDE))
    centred = smooth - smooth.mean((1, 2), keepdim=True)
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-6)
