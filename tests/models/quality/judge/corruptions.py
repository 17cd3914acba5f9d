"""Real images made worse on purpose, each in a way that one kind of failed generator makes them."""

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Images = np.ndarray[Any, np.dtype[np.uint8]]


def blurred(images: Images, rng: np.random.Generator) -> Images:
    """By 1.5 of 64 pixels: an autoencoder without an adversary."""
    sd = 1.5 * images.shape[-1] / 64
    return np.stack([gaussian_filter(image, sd) for image in images])


def torn(images: Images, rng: np.random.Generator) -> Images:
    """Every 4 of 64 columns moved by up to 2 of 64 pixels: layers that a diffusion model has not joined."""
    unit = images.shape[-1] // 64
    out = images.copy()
    for image in out:
        for start in range(0, image.shape[1], 4 * unit):
            part = slice(start, start + 4 * unit)
            image[:, part] = np.roll(image[:, part], unit * int(rng.integers(-2, 3)), 0)
    return out


def shuffled(images: Images, rng: np.random.Generator) -> Images:
    """Columns in random order."""
    return np.stack([image[:, rng.permutation(image.shape[1])] for image in images])


def stretched(images: Images, rng: np.random.Generator) -> Images:
    """Contrast raised by a half about the mean."""
    mean = images.mean((1, 2), keepdims=True)
    return np.clip(mean + 1.5 * (images - mean), 0, 255).astype(np.uint8)


def mirrored(images: Images, rng: np.random.Generator) -> Images:
    """The right half is the mirror image of the left one."""
    half = images[:, :, : images.shape[2] // 2]
    return np.concatenate([half, half[:, :, ::-1]], 2)


def smoothed_along_layers(images: Images, rng: np.random.Generator) -> Images:
    """Averaged over 3 of 64 columns: speckle drawn out."""
    return gaussian_filter1d(images.astype(float), 1.5 * images.shape[-1] / 64, axis=2).round().astype(np.uint8)


def memorised(images: Images, rng: np.random.Generator) -> Images:
    """A tenth of the images, again and again, with slight noise."""
    few = images[rng.permutation(len(images))[: max(4, len(images) // 10)]]
    repeated = few[rng.integers(len(few), size=len(images))]
    return np.clip(repeated + 3 * rng.standard_normal(repeated.shape), 0, 255).round().astype(np.uint8)
