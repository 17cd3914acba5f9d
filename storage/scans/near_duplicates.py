"""Near-duplicates among images: the same scan under two names, saved again, resized or slightly brightened.

Near-identical scans of one patient are expected. Across patients they mean that one person has two numbers, and that
test images leak into training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

SIDE, LOW = 64, 16  # pixels the image is reduced to; frequencies kept per direction
BITS = LOW * LOW
BAND = 16  # bits: two hashes that differ in fewer bits than there are bands share a band whole
MAX_DISTANCE = BITS // BAND - 1  # 15 of 256 bits; on the 380 sample scans unrelated ones differ in 60 and more


@dataclass(frozen=True)
class NearDuplicate:
    """Two images, by index, that look alike, and the number of hash bits in which they differ."""

    first: int
    second: int
    distance: int


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """256 bits that change little when an image is saved again, resized or brightened: uint8 (32,).

    The signs of the low cosine frequencies about their median (Zauner 2010).

    Args:
        image: uint8 (H, W).
    """
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    low = dctn(small)[: LOW + 1, : LOW + 1][1:, 1:]  # without terms constant along an axis, which all frames share
    return np.packbits(low > np.median(low))


def near_duplicates(
    hashes: NDArray[np.uint8], groups: Sequence[str], max_distance: int = MAX_DISTANCE
) -> list[NearDuplicate]:
    """All pairs of images of different groups whose hashes differ in at most ``max_distance`` bits.

    Only pairs with an equal 16-bit band are compared: with fewer differences than bands, no pair is missed.

    Args:
        hashes: uint8 (n, 32), see :func:`perceptual_hash`.
        groups: the patient of each image.
        max_distance: at most :data:`MAX_DISTANCE`.
    """
    assert max_distance <= MAX_DISTANCE, "pairs with more differences may share no band"
    bands = np.ascontiguousarray(hashes).view(">u2")
    found: dict[tuple[int, int], int] = {}
    for band in range(bands.shape[1]):
        order = np.argsort(bands[:, band], kind="stable")
        cuts = np.flatnonzero(np.diff(bands[order, band])) + 1
        for members in np.split(order, cuts):
            for place, i in enumerate(members[:-1]):
                others = members[place + 1 :]
                distances = np.bitwise_count(hashes[others] ^ hashes[i]).sum(1)
                for place_of_other in np.flatnonzero(distances <= max_distance):
                    j = others[place_of_other]
                    if groups[i] != groups[j]:
                        found[min(i, j), max(i, j)] = int(distances[place_of_other])
    return [NearDuplicate(int(i), int(j), distance) for (i, j), distance in sorted(found.items())]
