"""The pictures of a model: made as a data set's images are made."""

import numpy as np
import pytest

from image_longitudinal.core.config import GeneratorConfig, ProbeConfig
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.grey_images import to_grey_levels, to_unit
from image_longitudinal.models.imaging.interface import ImageModel
from image_longitudinal.models.quality.gallery import noise_to_image, traversal, triptychs
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.vae.augmentation import centre_view
from tests.models.conftest import phantoms


@pytest.fixture(scope="module")
def model(tiny_version: ModelVersion) -> ImageModel:
    return load_image_model(GeneratorConfig(steps=3, batch_size=4), tiny_version, "cpu")


def test_a_traversal_moves_one_dimension_at_a_time(model: ImageModel) -> None:
    images = traversal(model, [3, 1], 4)
    assert images.shape == (2, 7, 32, 32)
    np.testing.assert_array_equal(images[0, 3], images[1, 3])  # both rows pass through z = 0
    z = np.zeros((1, 5), np.float32)
    z[0, 1] = -3
    alone = model.generate(np.repeat(z, 4, 0), np.ones(4, np.int64))[0]
    np.testing.assert_array_equal(images[1, 0], alone)


def test_a_triptych_begins_with_the_scan_as_training_sees_it(model: ImageModel, tiny_version: ModelVersion) -> None:
    scans = phantoms(9, 32, 4)
    shown = triptychs(model, load_vae(tiny_version), scans, 4)
    assert shown.shape == (3, 6, 32, 32)
    np.testing.assert_array_equal(shown[0], to_grey_levels(centre_view(to_unit(scans[:6], "cpu"))))
    assert np.abs(shown[1].astype(int) - shown[0]).mean() < 80


def test_noise_becomes_the_image_that_sampling_gives(model: ImageModel) -> None:
    frames = noise_to_image(model.network, ProbeConfig(steps=3), 2)  # type: ignore[attr-defined]
    assert frames.shape == (4, 4, 32, 32)  # three states before a step, and the result
    assert (frames[0] != frames[-1]).any()
