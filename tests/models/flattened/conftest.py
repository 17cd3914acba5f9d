"""A flattened retina of phantoms at tiny size."""

import numpy as np
import pytest

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.models.flattened.images import FlattenedImages, flatten_images
from image_longitudinal.models.flattened.retina import FlattenedRetina
from image_longitudinal.models.flattened.train import fit_flattened_retina
from image_longitudinal.models.imaging import phantom


@pytest.fixture(scope="session")
def flattened(tmp_path_factory: pytest.TempPathFactory) -> FlattenedImages:
    """100 phantoms, flattened for a model of 32x32 pixels."""
    latents = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    images = phantom.render(latents, np.arange(100), 128)
    return flatten_images(images, 32, tmp_path_factory.mktemp("flattened") / "phantoms")


@pytest.fixture(scope="session")
def retina(flattened: FlattenedImages) -> FlattenedRetina:
    """Four dimensions for the curve and six for the appearance."""
    config = VAEConfig(kind="flattened", image_size=32, latent_dim=10)
    return fit_flattened_retina(flattened, np.arange(100), config, 0)[0]
