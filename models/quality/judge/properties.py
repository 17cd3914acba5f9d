"""Properties of single B-scans that an eye doctor would look at: layers, thickness, speckle, brightness.

Each is one number per image, or per image and part of its width; none depends on a network.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.judge.anatomy import Boundaries, Stack, flatten, smooth, trace, unit_of

FAINT = 0.55  # of the median strength of an image's outer boundary; below it, it is broken: 0.6 to 0.9 times in a scan
BREAK = 1.0  # units of width that a break has at least, and two columns: it is no single dark one
JUMP = 1.2  # units that the boundary moves from column to column, to count as a jump
PARTS = 8  # of the width, for the thickness map
PATCH = 32  # pixels a side of flattened images
BATCH = 64

NAMES = (
    "RPE breaks", "RPE jumps", "RPE roughness", "inner roughness", "thickness", "thickness variation", "layer contrast",
    "speckle", "speckle correlation down", "speckle correlation across", "mean grey", "grey SD", "black level",
    "white level", "mirror correlation",
)  # fmt: skip


class ImageProperties(NamedTuple):
    """``values`` (n, len(NAMES)); ``thickness`` (n, 8) per part of the width, fractions of the image's height.

    ``patches`` (n, 32, 32): flattened images; ``greys`` (n, 256): histograms.
    """

    values: Matrix
    thickness: Matrix
    patches: Stack
    greys: Matrix


def image_properties(images: NDArray[np.uint8]) -> ImageProperties:
    """Properties of images (n, S, S) uint8, S at least 32.

    RPE breaks: per image, runs of columns without an outer boundary. RPE jumps: share of neighbouring columns between
    which it moves by more than 1.2 of 64 pixels. Roughness: mean distance of a boundary from its own smooth course, in
    1/64 of the height. Thickness: from inner limit to outer boundary, fraction of the height; its variation is the
    standard deviation along the scan. Layer contrast: standard deviation of the mean column of the flattened retina.
    Speckle: standard deviation of grey levels about their mean along the layers, within the retina; its correlation
    with itself one unit (1/64 of the side) down and across. Black and white level: 2nd and 98th percentile. Mirror
    correlation: of the image with its mirror image.
    """
    parts = [_of_batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return ImageProperties(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _of_batch(images: NDArray[np.uint8]) -> ImageProperties:
    unit, lines, size = unit_of(images), trace(images), images.shape[-1]
    grey = images.astype(np.float64)
    outer, inner = smooth(lines.outer, unit), smooth(lines.inner, unit)
    thickness = (outer - inner) / size
    per_part = np.stack([part.mean(1) for part in np.array_split(thickness, PARTS, axis=1)], 1)
    patches = flatten(images, lines.outer, min(PATCH, size))
    greys = np.stack([np.bincount(image.ravel(), minlength=256) / image.size for image in images])
    retina = patches[:, : round(0.9 * patches.shape[1])].mean(2)
    values = np.column_stack([
        _breaks(lines, unit),
        (np.abs(np.diff(lines.outer, axis=1)) > JUMP * unit).mean(1),
        np.abs(lines.outer - outer).mean(1) / unit,
        np.abs(lines.inner - inner).mean(1) / unit,
        thickness.mean(1),
        thickness.std(1),
        retina.std(1),
        *_speckle(grey, inner, outer, unit),
        grey.mean((1, 2)),
        grey.std((1, 2)),
        *np.percentile(grey, [2, 98], axis=(1, 2)),
        _correlation(grey, grey[:, :, ::-1], np.ones_like(grey)),
    ])  # fmt: skip
    return ImageProperties(values, per_part, patches, greys)


def _breaks(lines: Boundaries, unit: float) -> NDArray[np.float64]:
    """runs of at least one unit of columns in which the boundary is faint, per image (n,)."""
    least = max(2, round(BREAK * unit))
    faint = lines.strength < FAINT * np.median(lines.strength, axis=1, keepdims=True)
    padded = np.pad(faint, ((0, 0), (1, 1))).astype(np.int8)
    turns = np.diff(padded, axis=1)
    counts = np.zeros(len(faint))
    for image, turn in enumerate(turns):
        counts[image] = (np.flatnonzero(turn == -1) - np.flatnonzero(turn == 1) >= least).sum()
    return counts


def _speckle(grey: Stack, inner: Matrix, outer: Matrix, unit: float) -> list[NDArray[np.float64]]:
    """Standard deviation of speckle, and its correlation one unit down and across, within the retina: (n,) each.

    Speckle is what is left of a flattened retina less its rows' smooth course: layers are even along a row, it is not.
    """
    size = grey.shape[1]
    rows = np.rint(outer).astype(int)[:, None, :] + np.arange(-round(0.45 * size), 1)[None, :, None]  # whole pixels
    flat = np.take_along_axis(grey, np.clip(rows, 0, size - 1), axis=1)
    inside = (rows > np.maximum(inner, 0)[:, None, :]).astype(np.float64)
    residual = flat - gaussian_filter(flat, (0, 0, 2.5 * unit))
    step, found = max(1, round(unit)), []
    found.append(np.sqrt((np.square(residual) * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)))
    for axis in (1, 2):
        here, there = np.arange(flat.shape[axis] - step), np.arange(step, flat.shape[axis])
        first, second, both = (np.take(a, i, axis) for a, i in ((residual, here), (residual, there), (inside, here)))
        found.append(_correlation(first, second, both))
    return found


def _correlation(a: Stack, b: Stack, weight: Stack) -> NDArray[np.float64]:
    """Weighted correlation of two stacks' pixels, per image (n,); 0 for constant images."""
    total = np.maximum(weight.sum((1, 2), keepdims=True), 1)
    a, b = (x - (x * weight).sum((1, 2), keepdims=True) / total for x in (a, b))
    scale = np.sqrt((a * a * weight).sum((1, 2)) * (b * b * weight).sum((1, 2)))
    return np.asarray((a * b * weight).sum((1, 2)) / np.maximum(scale, 1e-9))
