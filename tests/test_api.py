"""The public functions that need no server; those that run flows are tested in tests/e2e."""

from pathlib import Path

import numpy as np
import pytest

import image_longitudinal as il
from image_longitudinal.core.errors import ModelError


def test_the_bundled_model_generates_images(tmp_path: Path) -> None:
    model = il.load_model(workspace=tmp_path, device="cpu")
    latents = np.random.default_rng(1).standard_normal((2, model.latent_dim)).astype(np.float32)
    images = model.generate(latents, np.array([1, 2]))
    assert (images.shape, images.dtype) == ((2, 64, 64), np.uint8)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such model.*got 0123456789ab"):
        il.load_model("0123456789ab", workspace=tmp_path)
