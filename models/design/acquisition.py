"""What a site's scanner does to finished images: gain, contrast, blur, speckle and a vertical offset.

A site's shift at strength 1 is drawn once from the seed; its strength multiplies every part of it. At strength 0 an
image stays as it is, bit for bit. In the grey levels of a log-scaled OCT image a gain in dB is an addition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from image_longitudinal.core.random import normals, seeded_normals, stream_key
from image_longitudinal.core.study_config import Site

MIDDLE = 127.5  # grey level around which contrast changes
GAIN, CONTRAST, BLUR, SPECKLE, OFFSET = 12.0, 0.15, 0.006, 0.06, 0.02  # standard deviations over sites at strength 1
LAYER = 8.0  # grey levels of speckle are relative to the grey level above this


@dataclass(frozen=True)
class AcquisitionShift:
    """A site's shift.

    Args:
        gain: added, grey levels.
        contrast: factor on the distance from middle grey.
        blur: standard deviation of a Gaussian, fraction of the image's height.
        speckle: standard deviation of multiplicative noise, its own in each image.
        offset: downwards, fraction of the image's height, whole pixels; what enters repeats the edge.
    """

    gain: float = 0.0
    contrast: float = 1.0
    blur: float = 0.0
    speckle: float = 0.0
    offset: float = 0.0

    def __call__(self, images: NDArray[np.uint8], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Shifted images (n, H, W) uint8 of subjects with these seeds (n,)."""
        if self == AcquisitionShift():
            return images
        height = images.shape[1]
        grey = images.astype(np.float64)
        if self.blur:
            grey = gaussian_filter(grey, (0.0, self.blur * height, self.blur * height), mode="nearest")
        if rows := round(self.offset * height):
            grey = grey[:, np.clip(np.arange(height) - rows, 0, height - 1)]
        grey = MIDDLE + self.contrast * (grey - MIDDLE) + self.gain
        if self.speckle:
            drawn = seeded_normals(seeds, "site speckle", grey[0].size).reshape(grey.shape)
            grey += self.speckle * drawn * np.maximum(grey, LAYER)
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def acquisition_shift(site: Site, seed: int) -> AcquisitionShift:
    """The shift of a site, from its name, its strength and the data set's seed."""
    if not site.strength:
        return AcquisitionShift()
    own = normals(stream_key(seed, "study site", site.name), [0], 5)[0] * site.strength
    return AcquisitionShift(
        gain=round(GAIN * own[0], 6), contrast=round(float(np.exp(CONTRAST * own[1])), 6),
        blur=round(BLUR * abs(own[2]), 6), speckle=round(SPECKLE * abs(own[3]), 6), offset=round(OFFSET * own[4], 6),
    )  # fmt: skip


def shift_images(
    images: NDArray[np.uint8], seeds: NDArray[np.int64], site: NDArray[np.int64], shifts: Sequence[AcquisitionShift]
) -> NDArray[np.uint8]:
    """Images (n, H, W) as their sites (n,) acquire them."""
    out = images.copy()
    for number, shift in enumerate(shifts):
        if (rows := np.flatnonzero(site == number)).size:
            out[rows] = shift(images[rows], seeds[rows])
    return out
