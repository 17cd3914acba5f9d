import numpy as np
import pytest

from image_longitudinal.models.scans.cleaning import clean_frame
from image_longitudinal.models.scans.framing import to_sizes, to_square
from tests.models.scans.test_cleaning import phantom


def disc(height, width, centre_x, radius_y, radius_x):
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1
    return (inside * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "across"),
    [(496, 384, 1), (496, 512, 1), (512, 512, 1), (496, 768, 1), (496, 1024, 2), (496, 1536, 2), (300, 299, 1)],
)
@pytest.mark.parametrize("size", [64, 224, 512])
def test_a_structure_has_one_size_whatever_the_frame(height, width, across, size):
    """A disc a quarter of the depth in radius stays one: the frame is cropped or padded, the anatomy not squeezed."""
    square = to_square(disc(height, width, width / 2, height / 4, across * height / 4), size)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    fine = 8 * size
    expected = disc(fine, fine, fine / 2, fine / 4, fine / 4).reshape(size, 8, size, 8).mean(axis=(1, 3))
    assert np.abs(square - expected).mean() < 255 * 1.2 / size  # the rim is a little sharper or softer
    assert abs(square.mean() / expected.mean() - 1) < 0.01


def test_a_narrow_scan_is_padded_with_black_on_both_sides():
    square = to_square(np.full((400, 200), 99, np.uint8), 400)
    assert (square[:, :100] == 0).all()
    assert (square[:, 100:300] == 99).all()
    assert (square[:, 300:] == 0).all()


def test_reduction_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    assert np.abs(to_square(stripes, 64).astype(int) - 127).max() <= 8


def test_a_square_of_the_right_size_is_untouched_and_not_shared():
    image = phantom(224, 224)
    square = to_square(image, 224)
    np.testing.assert_array_equal(square, image)
    assert not np.shares_memory(square, image)


def test_every_size_is_made_and_brightness_is_kept():
    image = phantom()
    squares = to_sizes(clean_frame(image), [512, 224, 64])
    assert {size: square.shape for size, square in squares.items()} == {s: (s, s) for s in (512, 224, 64)}
    for square in squares.values():
        assert abs(square.mean() - image[:, 8:-8].mean()) < 1
