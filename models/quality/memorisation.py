"""Whether generated images lie closer to training images than images of new patients do."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from image_longitudinal.models.imaging.grey_images import ImageRows, to_grey_levels, to_unit
from image_longitudinal.models.registry.metadata import MemorisationFigures
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.augmentation import CROP, augment

SIDE = 64  # pixels a side at which images are compared with training images
BATCH = 256


def memorisation_figures(
    generated: NDArray[np.uint8], held_out: NDArray[np.uint8], training: ImageRows
) -> MemorisationFigures:
    """Distances of generated and of held-out images, both as :func:`training_views`, to the nearest training image.

    All are uint8 (n, S, S), each with its own n.
    """
    near, new = nearest_training_image(generated, training), nearest_training_image(held_out, training)
    return MemorisationFigures(
        generated_first_percentile=float(np.percentile(near, 1)),
        held_out_first_percentile=float(np.percentile(new, 1)),
        generated_median=float(np.median(near)),
        held_out_median=float(np.median(new)),
    )


def nearest_training_image(images: NDArray[np.uint8], training: ImageRows) -> NDArray[np.float64]:
    """Root mean squared difference (grey 0 to 1) of each image to its nearest training image, (n,).

    Training mirrors images and crops them at any height, so images are compared with both mirrorings at three heights,
    at most 64 pixels a side. Both are uint8 of one size, (n, S, S) and (m, S, S); training is read in batches.
    """
    own = _small(to_unit(images, "cpu"))
    nearest = torch.full((len(own),), torch.inf)
    square = own.square().sum(1)
    for start in range(0, len(training), BATCH):
        batch = to_unit(training[slice(start, start + BATCH)], "cpu")
        for view in _views(batch):
            other = _small(view)
            squared = square[:, None] + other.square().sum(1)[None] - 2 * own @ other.T
            nearest = torch.minimum(nearest, squared.min(1).values.clamp(min=0))
    return (nearest / own.shape[1]).sqrt().double().numpy()


def training_views(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Images augmented as in training, mirrored or not and cropped at a random height; uint8 (n, S, S)."""
    return to_grey_levels(augment(to_unit(images, "cpu"), step_generator(seed, "quality-views", 0)))


def _views(batch: Tensor) -> list[Tensor]:
    size = batch.shape[-1]
    rows = round(size * CROP)
    tops = sorted({0, (size - rows) // 2, size - rows})
    crops = [interpolate(batch[:, :, top : top + rows], (size, size), mode="bilinear", antialias=True) for top in tops]
    return [view for crop in crops for view in (crop, crop.flip(-1))]


def _small(images: Tensor) -> Tensor:
    """Flattened images, (n, pixels), averaged down to at most 64 pixels a side."""
    side = min(SIDE, images.shape[-1])
    return adaptive_avg_pool2d(images, (side, side)).flatten(1)
