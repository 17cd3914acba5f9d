"""Grey levels and unit range convert into each other exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging.grey_images import check_images, to_grey_levels, to_unit


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_grey_levels_survive_the_way_there_and_back(n: int, size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)
    unit = to_unit(images, "cpu")
    assert (unit.shape, unit.dtype) == ((n, 1, size, size), torch.float32)
    assert 0 <= unit.min() <= unit.max() <= 1
    np.testing.assert_array_equal(to_grey_levels(unit), images)


def test_grey_levels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.7]).reshape(5, 1, 1, 1)
    assert to_grey_levels(values).ravel().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_with_a_value_that_is_not_finite_becomes_black_and_is_refused(value: float) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[1, 0, 2, 3] = value
    levels = to_grey_levels(images)
    assert not levels[1].any()
    assert levels[0].any()
    with pytest.raises(ModelError, match=r"without content .*subject 11"):
        check_images(levels, 10)


def test_images_that_are_all_the_same_are_refused_and_one_alone_is_not() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    check_images(image, 0)
    with pytest.raises(ModelError, match=r"same image of different latents .*subjects 0 to 2"):
        check_images(np.repeat(image, 3, axis=0), 0)
