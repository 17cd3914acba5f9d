import itertools

import numpy as np
import pytest

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.phantom import DEPTH_MM, LATENT_EFFECTS, LATENT_NAMES, layer_depths, render


def latents_and_seeds(n, d=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32), np.arange(n) * 7919 + seed


@pytest.mark.parametrize("size", [32, 64, 128, 224, 512])
def test_an_image_is_a_bright_retina_under_a_dark_vitreous_with_the_boundaries_of_layer_depths(size):
    z, seeds = latents_and_seeds(6)
    z[:, LATENT_NAMES.index("luminance")] = 0
    images = render(z, seeds, size)
    assert (images.shape, images.dtype) == ((6, size, size), np.uint8)
    edges = layer_depths(z, seeds, size)
    row = np.arange(size)[:, None] + 0.5
    for image, top, bottom in zip(images, edges[0], edges[-1], strict=True):
        vitreous = image[row < top - 2].mean()
        retina = image[(row > top) & (row < bottom)].mean()
        deep = image[row > bottom + 0.6 / DEPTH_MM * size]
        assert vitreous < 30
        assert retina > 2.5 * vitreous
        if deep.size:
            assert deep.mean() < 0.6 * retina
        above, below, columns = np.floor(top).astype(int) - 2, np.floor(top).astype(int) + 1, np.arange(size)
        assert np.median(image[below, columns].astype(float) - image[above, columns]) > 20


@pytest.mark.parametrize(("size", "n"), [(32, 150), (64, 9), (224, 9)])  # 64 images of 32 pixels are a chunk
def test_an_image_does_not_depend_on_its_batch(size, n):
    z, seeds = latents_and_seeds(n)
    whole = render(z, seeds, size)
    for batch in ([4], [8, 4, 0], [4, 4], range(3, 9), range(n - 2, n)):
        np.testing.assert_array_equal(render(z[list(batch)], seeds[list(batch)], size), whole[list(batch)])


def test_the_seed_changes_speckle_and_texture_only():
    z, _ = latents_and_seeds(1)
    first, again, other = render(np.repeat(z, 3, axis=0), np.array([5, 5, 6]), 64).astype(float)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.3
    assert np.abs(first - other).mean() < 15


def test_entries_beyond_the_named_ones_do_nothing_and_missing_ones_are_zero():
    z, seeds = latents_and_seeds(3, 128)
    named = z[:, : len(LATENT_NAMES)]
    np.testing.assert_array_equal(render(z, seeds, 32), render(named, seeds, 32))
    short = named.copy()
    short[:, 8:] = 0
    np.testing.assert_array_equal(render(named[:, :8], seeds, 32), render(short, seeds, 32))


@pytest.mark.parametrize("entry", range(len(LATENT_EFFECTS)), ids=LATENT_NAMES)
def test_an_entry_drives_its_quantity_up_within_bounds_and_nothing_else(entry):
    z = np.zeros((41, len(LATENT_EFFECTS)), np.float32)
    z[:, entry] = np.linspace(-5, 5, 41)
    values = phantom.anatomy(z)
    driven = values[LATENT_NAMES[entry]][:, 0]
    assert (np.diff(driven) > 0).all()
    assert np.abs(driven - LATENT_EFFECTS[entry].centre).max() <= LATENT_EFFECTS[entry].reach
    for name, other in values.items():
        assert name == LATENT_NAMES[entry] or np.ptp(other) == 0


def test_even_extreme_latents_keep_the_retina_in_the_frame_and_its_layers_in_order():
    corners = list(itertools.product((-5, 5), repeat=len(LATENT_EFFECTS) - 2))  # light changes no depth
    z = np.zeros((len(corners), len(LATENT_EFFECTS)), np.float32)
    moving = [i for i, name in enumerate(LATENT_NAMES) if name not in ("luminance", "contrast")]
    z[:, moving] = corners
    edges = layer_depths(z, np.arange(len(z)), 32) / 32
    assert edges[0].min() > 0.015
    assert edges[-1].max() < 0.95
    assert (np.diff(edges, axis=0) > 0).all()


def test_layers_have_the_thickness_of_healthy_eyes():
    z = np.zeros((1, len(LATENT_EFFECTS)), np.float32)
    pit_depth = LATENT_EFFECTS[4]
    z[0, 4] = 2.5 * np.arctanh((1 - pit_depth.centre) / pit_depth.reach)
    edges = layer_depths(z, [0], 601)[:, 0] * (DEPTH_MM * 1000 / 601)
    thickness = np.diff(edges, axis=0)[:, 300]  # µm at the foveal centre
    expected = [layer.fovea for layer in phantom.LAYERS]
    expected[0] *= LATENT_EFFECTS[8].centre
    np.testing.assert_allclose(thickness, expected, rtol=0.01, atol=0.1)
    pit = edges[0] + edges[-1][300] - edges[-1]  # inner surface, flattened onto the pigment epithelium
    assert np.ptp(pit[[300, 200, 400]]) > 75  # µm between the centre and 1 mm away
    assert 280 < np.argmax(pit) < 320


@pytest.mark.parametrize("size", [32, 64])
def test_every_entry_can_be_read_from_an_image(size):
    """The least posterior variance a reader can reach (Gauss-Newton at random z, noise of 6 grey levels) is small."""
    least = []
    step = 0.4 * np.eye(len(LATENT_EFFECTS), dtype=np.float32)
    for subject in range(6):
        z, _ = latents_and_seeds(1, seed=subject)
        images = render(np.concatenate([z + step, z - step]), np.full(2 * len(step), subject), size).astype(float)
        slope = ((images[: len(step)] - images[len(step) :]) / 0.8).reshape(len(step), -1)
        least.append(np.diag(np.linalg.inv(np.eye(len(step)) + slope @ slope.T / 36)))
    r2 = 1 - np.mean(least, axis=0)
    assert r2.min() > 0.85
    assert r2[:4].min() > 0.99


def test_speckle_is_as_strong_at_every_place_and_independent_between_subjects():
    z = np.zeros((40, len(LATENT_EFFECTS)), np.float32)
    images = render(z, np.arange(40), 64).astype(float)
    noise = images[:, 2:14] - images[:, 2:14].mean(axis=0)  # vitreous rows
    spread = noise.std(axis=0)
    assert spread.min() > 0.5 * spread.mean()
    assert spread.max() < 1.6 * spread.mean()
    between = np.corrcoef(noise.reshape(40, -1))
    assert np.abs(between - np.eye(40)).mean() < 0.08
    beside = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(beside) < 0.1


@pytest.mark.parametrize(
    ("latents", "size"),
    [(np.zeros(12), 32), (np.zeros((2, 12)), 32), (np.full((1, 12), np.nan), 32), (np.zeros((1, 12)), 8)],
)
def test_impossible_requests_are_refused(latents, size):
    with pytest.raises(ModelError):
        render(latents, [0], size)
    assert render(np.zeros((0, 12)), np.zeros(0, int), 32).shape == (0, 32, 32), "no subjects, no images"


def test_pixels_do_not_change_without_a_new_version():
    """Means of 8x8 blocks, to one grey level: other processors may round the last bit of an exponential differently."""
    assert phantom.PHANTOM_VERSION == 1
    image = render(np.linspace(-1.5, 1.5, 12, dtype=np.float32)[None], [12345], 64)[0]
    blocks = image.astype(float).reshape(8, 8, 8, 8).mean(axis=(1, 3))[1:7, [0, 3, 7]]
    known = [[12, 12, 12], [12, 27, 78], [80, 73, 72], [91, 106, 91], [66, 53, 43], [34, 30, 23]]
    np.testing.assert_allclose(blocks, known, atol=1)
