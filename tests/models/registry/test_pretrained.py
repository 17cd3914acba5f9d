"""The model that is bundled with the code: whole, small, with its licence, and ready for use."""

import json
from pathlib import Path

import numpy as np

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.models.imaging.backends import describe, load_image_model
from image_longitudinal.models.pretrained import FOLDER, PRETRAINED
from image_longitudinal.models.registry.metadata import read_model_file, write_model_file
from image_longitudinal.models.registry.registry import CARD, MODEL
from image_longitudinal.tasks.workspace import Workspace
from tests.models.conftest import draws


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6
    card = (FOLDER / CARD).read_text()
    for stated in ("CC BY 4.0", "Kermany", "10.17632/rscbjbr9sj.3", "not for diagnosis"):
        assert stated in card


def test_its_model_json_of_format_1_is_upgraded_under_its_recorded_name(tmp_path: Path) -> None:
    version = Workspace.at(tmp_path).model(PRETRAINED)
    recorded = json.loads((FOLDER / MODEL).read_text())
    assert (recorded["format"], version.digest) == (1, recorded["digest"])
    old, metadata = recorded["metadata"], version.metadata
    measured = metadata.measured
    assert metadata.metrics == old["metrics"] | {"validation_mse": old["figures"]["vae"]["validation_mse"]}
    assert (measured.latent_order, measured.recoverability) == (old["entries"], old["recoverability"])
    assert measured.fidelity["encoder"].floor.fd == old["quality"]["encoder"]["floor_fd"]
    assert metadata.networks.residual_scale == old["residual_scale"]
    assert (metadata.backend, metadata.images.kind, metadata.images.patients) == ("diffusion", "scans", 302)
    digest, config = "55a32d3531eeeae01c8c72f437e7a70473e8274a60d3d4469ce2111d0bfea2cc", GeneratorConfig()
    generator = digest_of("diffusion", 2, digest, config.scheduler, config.steps, "float32")
    assert (version.digest, describe(config, version)) == (digest, (generator, 64, 16)), "data sets keep their digest"
    text, stored = write_model_file(version.files, metadata)
    assert read_model_file(text.encode(), "format 2") == stored


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
