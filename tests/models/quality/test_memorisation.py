"""Distances of generated images to training images, held against a direct loop."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from image_longitudinal.models.quality.memorisation import memorisation_figures, nearest_training_image, training_views
from tests.models.conftest import phantoms


def test_copies_of_training_images_are_found_mirrored_and_cropped() -> None:
    training, new = phantoms(40, 64), phantoms(30, 64, 5)
    copies = training_views(training[:20], 3)  # what a generator that remembers would make
    found = memorisation_figures(copies, training_views(new, 3), training)
    assert found.nearest_ratio < 0.9
    honest = memorisation_figures(training_views(phantoms(30, 64, 6), 4), training_views(new, 3), training)
    assert honest.nearest_ratio > found.nearest_ratio
    centre = nearest_training_image(training[:3, :, ::-1].copy(), training)
    assert centre.shape == (3,)


def test_the_distance_to_the_nearest_is_that_of_a_direct_loop() -> None:
    training, images = phantoms(5, 32), phantoms(4, 32, 2)
    size, rows = 32, round(32 * 190 / 224)
    nearest = np.full(4, np.inf)
    for picture in training:
        for top in (0, (size - rows) // 2, size - rows):
            crop = torch.from_numpy(picture[None, None, top : top + rows].copy()).float() / 255
            view = interpolate(crop, (size, size), mode="bilinear", antialias=True).numpy()[0, 0]
            for shown in (view, view[:, ::-1]):
                nearest = np.minimum(nearest, np.sqrt(np.square(images / 255 - shown).mean((1, 2))))
    np.testing.assert_allclose(nearest_training_image(images, training), nearest, rtol=1e-4)
