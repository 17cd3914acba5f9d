"""The models that are bundled with the code: whole, small, with their licence, and ready for use."""

import json
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import describe, load_image_model
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.quality.recoverability import encoder_reader, r_squared
from image_longitudinal.models.registry.metadata import read_model_file, write_model_file
from image_longitudinal.models.registry.registry import CARD, ModelVersion
from image_longitudinal.tasks.workspace import Workspace
from tests.models.conftest import draws


@pytest.mark.parametrize("name", BUNDLED)
def test_it_is_small_and_says_where_it_comes_from(name: str) -> None:
    assert sum(path.stat().st_size for path in BUNDLED[name].iterdir()) < 30e6
    card = (BUNDLED[name] / CARD).read_text(encoding="utf-8")
    for stated in ("CC BY 4.0", "Kermany", "10.17632/rscbjbr9sj.3", "not for diagnosis", "seed", "hours"):
        assert stated in card


@pytest.mark.parametrize("name", BUNDLED)
def test_it_makes_images_in_a_new_workspace_from_which_z_is_read_back(name: str, tmp_path: Path) -> None:
    version = Workspace.at(tmp_path).model(name)
    assert Workspace.at(tmp_path).model(version.version) == version
    assert len(version.tensors("examples")["images"]) == 0  # no scan of a patient is shipped
    assert "triptychs" not in version.tensors("gallery")
    model = load_image_model(GeneratorConfig(scheduler="dpm++", steps=4, batch_size=8), version, "cpu")
    latents, seeds = draws(24, model.latent_dim)
    images = model.generate(latents, seeds)
    size = version.metadata.networks.image_size
    assert images.shape == (24, size, size)
    # A retina: a bright band between dark vitreous above and fading choroid below.
    profile = images.astype(float).mean((0, 2))
    assert 0.2 < int(np.argmax(profile)) / size < 0.8
    assert profile[: size // 10].mean() < 0.6 * profile.max()
    read = r_squared(latents, encoder_reader(load_vae(version))(images))
    assert np.sort(read)[-3:].min() > 0.85  # with 24 images; its card has the figures of hundreds


def test_a_model_json_of_format_1_is_upgraded_under_its_recorded_name(tmp_path: Path) -> None:
    text = Path(__file__).with_name("format-1.json").read_bytes()
    recorded, stored = json.loads(text), read_model_file(text, "format 1")
    assert (recorded["format"], stored.digest) == (1, recorded["digest"])
    old, metadata = recorded["metadata"], stored.metadata
    measured = metadata.measured
    assert metadata.metrics == old["metrics"] | {"validation_mse": old["figures"]["vae"]["validation_mse"]}
    assert (measured.latent_order, measured.recoverability) == (old["entries"], old["recoverability"])
    assert measured.fidelity["encoder"].floor.fd == old["quality"]["encoder"]["floor_fd"]
    assert metadata.networks.residual_scale == old["residual_scale"]
    assert (metadata.backend, metadata.images.kind, metadata.images.patients) == ("diffusion", "scans", 302)
    config, version = GeneratorConfig(), ModelVersion(tmp_path, stored.digest, dict(stored.files), metadata)
    generator = digest_of("diffusion", 2, stored.digest, config.scheduler, config.steps, "float32")
    assert describe(config, version) == (generator, 64, 16), "data sets keep their digest"
    again, content = write_model_file(stored.files, metadata)
    assert read_model_file(again.encode(), "format 2") == content
