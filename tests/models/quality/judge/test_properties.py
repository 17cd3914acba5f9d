"""Properties of single images: each moves with what it names, and hardly with the image's size."""

import numpy as np
import pytest

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, layer_depths, render
from image_longitudinal.models.quality.judge.properties import NAMES, PARTS, PATCH, image_properties
from tests.models.quality.judge import corruptions


def value(images: np.ndarray, name: str) -> np.ndarray:
    return image_properties(images).values[:, NAMES.index(name)]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    ids = np.arange(30)
    return render(normals(stream_key(6, "properties"), ids, 12).astype(np.float32), ids, 64)


def test_shapes(images: np.ndarray) -> None:
    found = image_properties(images)
    assert found.values.shape == (30, len(NAMES))
    assert found.thickness.shape == (30, PARTS)
    assert found.patches.shape == (30, PATCH, PATCH)
    np.testing.assert_allclose(found.greys.sum(1), 1)
    for size in (32, 48, 128):
        assert np.isfinite(image_properties(render(np.zeros((3, 12)), np.arange(3), size)).values).all()


def test_a_blank_image_has_properties_too() -> None:
    assert np.isfinite(image_properties(np.zeros((2, 64, 64), np.uint8)).values).all()


def test_thickness_is_that_of_the_phantom() -> None:
    latents = np.zeros((40, 12), np.float32)
    latents[:, LATENT_NAMES.index("retinal thickness")] = np.linspace(-2, 2, 40)
    images, truth = render(latents, np.arange(40), 128), layer_depths(latents, np.arange(40), 128)
    true = (truth[-1] - truth[0]).mean(1) / 128
    found = value(images, "thickness")
    assert np.corrcoef(found, true)[0, 1] > 0.95
    assert np.abs(found - true).mean() < 0.01  # of the height: 1.3 of 128 pixels


def test_gaps_in_the_outer_boundary_are_counted(images: np.ndarray) -> None:
    before = value(images, "RPE breaks")
    cut = images.copy()
    for start in (12, 40):  # columns without a retina
        cut[:, :, start : start + 5] = 20
    assert (value(cut, "RPE breaks") - before).mean() == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(
    ("change", "name", "factor"),
    [("torn", "RPE roughness", 2.0), ("torn", "RPE jumps", 2.0), ("shuffled", "RPE roughness", 2.5),
     ("blurred", "speckle", 0.6), ("stretched", "grey SD", 1.25), ("mirrored", "mirror correlation", 1.2)],
)  # fmt: skip
def test_a_change_moves_its_property(images: np.ndarray, change: str, name: str, factor: float) -> None:
    changed = value(getattr(corruptions, change)(images, np.random.default_rng(0)), name).mean()
    ratio = changed / value(images, name).mean()
    assert ratio > factor if factor > 1 else ratio < factor
