"""Grey levels and unit range convert into each other exactly."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.models.imaging.grey_images import to_grey_levels, to_unit


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
