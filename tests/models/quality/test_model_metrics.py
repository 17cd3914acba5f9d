"""What is measured of a finished model: drawn as a data set's images are, and the same again."""

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import vae_images
from image_longitudinal.models.quality.model_metrics import RealImages, measure_model
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.models.registry.registry import ModelVersion
from tests.models.conftest import phantoms


@pytest.fixture(scope="module")
def measured(tiny_version: ModelVersion) -> Measurement:
    return measure(tiny_version, phantoms(40, 32, 7))


def measure(version: ModelVersion, held_out: np.ndarray, **probe: object) -> Measurement:
    vae = load_vae(version)
    settings = ProbeConfig.model_validate({"n_images": 64, **probe})
    return measure_model(vae_images(vae, ""), vae, RealImages(phantoms(96, 32), held_out, "h"), settings, 1, "cpu")


def test_every_figure_is_there_beside_its_floor(measured: Measurement) -> None:
    assert len(measured.recoverability) == len(measured.noise_spread) == 5
    # a VAE's images have no noise; the mean of equal readings may be off by a rounding, and so their spread
    np.testing.assert_allclose(measured.noise_spread, 0.0, atol=1e-12)
    assert sorted(measured.latent_order) == list(range(5))
    assert measured.held_out == "h"
    assert measured.fidelity["encoder"].n == 40
    assert measured.memorisation is not None
    assert measured.memorisation.nearest_ratio > 0
    assert Measurement.model_validate_json(measured.model_dump_json()) == measured, "finite, and stored exactly"


def test_it_is_the_same_again(measured: Measurement, tiny_version: ModelVersion) -> None:
    assert measure(tiny_version, phantoms(40, 32, 7)) == measured


def test_without_other_patients_only_the_latents_are_read(tiny_version: ModelVersion) -> None:
    alone = measure(tiny_version, phantoms(4, 32, 7))
    assert (alone.fidelity, alone.memorisation) == ({}, None)
    assert len(alone.recoverability) == 5


def test_a_network_can_read_in_the_encoders_place(measured: Measurement, tiny_version: ModelVersion) -> None:
    torch.manual_seed(5)
    read = measure(tiny_version, phantoms(4, 32, 7), reader="network", reader_images=64, reader_steps=2)
    assert read.read_by == "network"
    assert read.recoverability != measured.recoverability
