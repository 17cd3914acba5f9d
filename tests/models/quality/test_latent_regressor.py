"""A network trained on pairs recovers the dimensions that images hold, and no others."""

import numpy as np
import torch

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.quality.latent_regressor import train_latent_regressor
from image_longitudinal.models.quality.recoverability import r_squared


def test_dimensions_that_images_show_are_recovered_and_others_are_not() -> None:
    ids = np.arange(700)
    z = normals(stream_key(0, "reader-test"), ids, 12).astype(np.float32)
    latents = np.stack([z[:, 0], z[:, 1], normals(stream_key(1, "else"), ids, 1)[:, 0]], 1).astype(np.float32)
    images = render(z, ids, 64)
    read = train_latent_regressor(images[:600], latents[:600], steps=80, seed=1, device=torch.device("cpu"))
    figures = r_squared(latents[600:], read(images[600:]))
    assert figures[:2].max() > 0.6  # 80 steps are few; a real reader takes hundreds
    assert figures[2] < 0.15
    again = train_latent_regressor(images[:99], latents[:99], steps=2, seed=1, device=torch.device("cpu"))
    same = train_latent_regressor(images[:99], latents[:99], steps=2, seed=1, device=torch.device("cpu"))
    np.testing.assert_array_equal(again(images[600:610]), same(images[600:610]))
