"""The model that ships with the code: whole, small, with its licence, and at once of use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.pretrained import FOLDER, PRETRAINED
from image_longitudinal.models.registry.registry import CARD
from image_longitudinal.tasks.workspace import Workspace
from tests.models.conftest import draws


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
    card = (FOLDER / CARD).read_text()
    for told in ("CC BY 4.0", "Kermany", "10.17632/rscbjbr9sj.3", "not for diagnosis"):
        assert told in card


def test_it_makes_images_in_a_new_workspace(tmp_path: Path) -> None:
    version = Workspace.at(tmp_path).model(PRETRAINED)
    assert Workspace.at(tmp_path).model(version.version) == version
    assert len(version.tensors("examples")["images"]) == 0  # no scan of a patient is shipped
    model = load_image_model(GeneratorConfig(steps=2, batch_size=2), version, "cpu")
    latents, seeds = draws(2, model.latent_dim)
    images = model.generate(latents, seeds)
    assert images.shape == (2, 64, 64)
    # A retina: a bright band between dark vitreous above and fading choroid below.
    profile = images.astype(float).mean((0, 2))
    assert 12 < int(np.argmax(profile)) < 52
    assert profile[:6].mean() < 0.6 * profile.max()
