"""PNG files of our own: what Pillow reads from them is the image."""

import io

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 7), (64, 33)])
def test_an_image_comes_back_from_its_png(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert (opened.format, opened.mode, opened.size) == ("PNG", "L", shape[::-1])
        np.testing.assert_array_equal(np.asarray(opened), image)
    assert encode_png(image.copy()) == data


def test_a_smooth_image_is_compressed() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    assert len(encode_png(smooth)) < smooth.size / 10
