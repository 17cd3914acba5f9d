"""Curve and scores read from finished images."""

import numpy as np
import pytest
import torch

from image_longitudinal.models.flattened.reading import Components, Fit, read_images
from image_longitudinal.models.flattened.retina import FlattenedRetina


@pytest.fixture(scope="module")
def components(retina: FlattenedRetina) -> Components:
    size = (retina.flat_rows, retina.image_size)
    return Components(retina.mean.reshape(size), retina.basis.reshape(-1, *size))


def test_shrunk_components_make_the_shrunk_mean_image(components: Components) -> None:
    fit = Fit(torch.tensor([[0.5, 0.05, -0.02, 0.0]], dtype=torch.float64), torch.ones(1, 6))
    small = components.shrunk(16)
    assert small.mean.shape == (32, 16)
    torch.testing.assert_close(
        small.flat(fit.scores), torch.nn.functional.avg_pool2d(components.flat(fit.scores), 2), atol=1e-5, rtol=0
    )


def test_curves_are_read_from_noisy_images(retina: FlattenedRetina, components: Components) -> None:
    z = torch.from_numpy(np.random.default_rng(4).standard_normal((64, 10))).float()
    curves, scores = retina.coordinates(z)
    noise = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images = (components.bent(Fit(curves, scores)) + 0.05 * noise).clamp(0, 1)
    fit = read_images(images, components, retina.centre[:4])
    # Half a pixel of 32 for nearly all; the rest are retinas that hardly show at an edge.
    assert ((fit.curves - curves).abs().amax(1) < 0.5 / 32).float().mean() > 0.9


def test_an_image_is_read_by_itself(retina: FlattenedRetina, components: Components) -> None:
    images = retina.decode(torch.from_numpy(np.random.default_rng(5).standard_normal((3, 10))).float())
    together = read_images(images, components, retina.centre[:4])
    alone = read_images(images[1:2], components, retina.centre[:4])
    # Products of matrices are rounded by the size of the batch; eleven steps carry that on.
    torch.testing.assert_close(together.curves[1:2], alone.curves, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.scores[1:2], alone.scores, atol=1e-2, rtol=1e-3)
