import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.errors import IngestError
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.scans.cleaning import clean_frame, fill_mask, replace_fill, to_grey, to_sizes, to_square
from tests.paths import SHARED_DATA

SCANS = SHARED_DATA / "kermany_sample"
needs_scans = pytest.mark.skipif(not SCANS.is_dir(), reason="no real scans: ../shared/data/kermany_sample is absent")


def phantom(height=496, width=512, seed=0):
    z = np.zeros((1, 12), np.float32)
    return np.asarray(Image.fromarray(render(z, [seed], 224)[0]).resize((width, height)))


def wedge(height, width, left, right, top=True):
    """Fill above (or below) a line from row ``left`` to row ``right``."""
    line = np.linspace(left, right, width)
    rows = np.arange(height)[:, None]
    return rows < line if top else rows >= height - line


def test_grey_stays_as_it_is_colour_becomes_luma_and_transparency_black():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for same in (image, image[..., None], np.repeat(image[..., None], 3, axis=2)):
        np.testing.assert_array_equal(to_grey(same), image)
    rgb = np.eye(3, dtype=np.uint8)[None] * 255
    np.testing.assert_array_equal(to_grey(rgb), [[76, 150, 29]])
    rgba = np.dstack([rgb, np.array([[255, 128, 0]], np.uint8)])
    np.testing.assert_array_equal(to_grey(rgba), [[76, 75, 0]])
    np.testing.assert_array_equal(to_grey(np.array([[[200, 255], [200, 0]]], np.uint8)), [[200, 0]])


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_scaled_by_the_bits_they_use(bits, dtype):
    full = 2**bits - 1
    image = np.array([[0, full * 0.25, full * 0.6, full * 0.9]]).astype(dtype)
    np.testing.assert_allclose(to_grey(image), [[0, 63.75, 153, 229.5]], atol=1)
    np.testing.assert_array_equal(to_grey(np.array([[0, 3, 100]], dtype)), [[0, 3, 100]])  # eight bits at least


def test_fractions_of_full_scale_and_black_and_white_are_scaled_and_an_empty_scan_is_refused():
    np.testing.assert_array_equal(to_grey(np.array([[0.0, 0.2, 1.0]])), [[0, 51, 255]])
    np.testing.assert_array_equal(to_grey(np.array([[False, True]])), [[0, 255]])
    for grey in (0, 90, 255):
        with pytest.raises(IngestError, match="shows nothing"):
            clean_frame(np.full((200, 200), grey, np.uint8))


@pytest.mark.parametrize(
    "image", [*map(np.zeros, (5, (4, 4, 5), (0, 4))), *(np.full((4, 4), value) for value in (-1, np.nan, 70000, "a"))]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(IngestError):
        to_grey(image)


@pytest.mark.parametrize(
    "fills",
    [[(0, 90, True)], [(60, 60, True)], [(120, 0, True), (0, 40, False)], [(0, 35, False)], [(3, 3, False)]],
    ids=["wedge", "band", "two wedges", "below", "thin"],
)
def test_wedges_are_replaced_by_background_and_nothing_else_is(fills):
    clean = phantom()
    white = np.any([wedge(*clean.shape, left, right, top) for left, right, top in fills], axis=0)
    image = np.where(white, np.uint8(255), clean)
    replaced = replace_fill(image)
    assert replaced[white].max() < 60
    assert len(np.unique(replaced[white])) == 1
    changed = replaced != image
    rim = fill_mask(image) & ~white
    assert not (changed & ~white & ~rim).any()
    assert rim.sum() < 2.5 * 2 * image.shape[1] * len(fills)


def test_a_white_strip_at_the_side_is_replaced():
    image = phantom().copy()
    image[:, :9] = 255
    replaced = replace_fill(image)
    assert replaced[:, :11].max() < 60
    np.testing.assert_array_equal(replaced[:, 12:], image[:, 12:])


def test_fill_survives_jpeg_compression(tmp_path):
    image = np.where(wedge(496, 512, 100, 20), np.uint8(255), phantom())
    Image.fromarray(image).save(tmp_path / "a.jpeg", quality=60)
    replaced = replace_fill(np.asarray(Image.open(tmp_path / "a.jpeg")))
    assert replaced[wedge(496, 512, 98, 18)].max() < 60


def test_bright_retina_that_touches_a_wedge_is_kept():
    image = phantom().copy()
    image[:200, :] = np.where(wedge(200, 512, 190, 0), np.uint8(255), image[:200])
    image[150:165, :] = 255  # a layer as white as fill, running out of the wedge into the picture
    replaced = replace_fill(image)
    assert (replaced[150:165, 160:] == 255).all()
    assert replaced[:140, :5].max() < 60


def test_a_scan_without_fill_is_untouched_even_with_bright_tissue_in_a_corner():
    image = phantom().copy()
    image[-60:, :80] = np.random.default_rng(0).integers(150, 245, (60, 80))
    for scan in (image, phantom(seed=4)):
        np.testing.assert_array_equal(replace_fill(scan), scan)


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
    assert (square.shape, square.dtype) == ((size, size), np.uint8)
    fine = 8 * size
    expected = disc(fine, fine, fine / 2, fine / 4, fine / 4).reshape(size, 8, size, 8).mean(axis=(1, 3))
    assert np.abs(square - expected).mean() < 255 * 1.2 / size  # the rim is a little sharper or softer
    assert abs(square.mean() / expected.mean() - 1) < 0.01


def test_a_narrow_scan_is_padded_reduction_is_antialiased_and_the_right_size_is_a_copy():
    square = to_square(np.full((400, 200), 99, np.uint8), 400)
    np.testing.assert_array_equal(square, np.repeat([[0, 99, 0]], [100, 200, 100], axis=1).repeat(400, axis=0))
    stripes = np.tile(np.array([0, 255], np.uint8), (512, 256))
    assert np.abs(to_square(stripes, 64).astype(int) - 127).max() <= 8
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


@pytest.fixture(scope="module")
def real_scans():
    files = sorted(SCANS.glob("*/*.jpeg"))[::4]
    return {file.stem: np.asarray(Image.open(file)) for file in files}


@needs_scans
def test_real_fill_is_removed(real_scans):
    def corners(image):
        return np.array([image[y, x] for y in (3, -4) for x in (3, -4)])

    white_before = {name for name, scan in real_scans.items() if (corners(scan) > 242).any()}
    white_after = {name for name, scan in real_scans.items() if (corners(replace_fill(scan)) > 242).any()}
    assert len(white_before) > 30
    assert not white_after


@needs_scans
def test_real_retina_is_kept(real_scans):
    """Tissue is 90-190 of 255, fill is above: of tissue only the rim of fill may be lost."""
    shares = []
    for scan in real_scans.values():
        tissue = (scan > 90) & (scan < 190)
        shares.append((tissue & fill_mask(scan)).sum() / tissue.sum())
        kept = scan[~fill_mask(scan)]
        assert (kept > 190).sum() > 0  # the brightest layer is still there
    assert np.mean(shares) < 0.005
    assert max(shares) < 0.05
