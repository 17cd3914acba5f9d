"""What is measured of a finished model: drawn as a data set's images are, and the same again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.models.imaging.backends import VAEImages, load_vae
from image_longitudinal.models.quality.model_metrics import Measurement, measure_model
from image_longitudinal.models.registry.promotion import DIRECTION
from image_longitudinal.models.registry.registry import ModelVersion
from tests.models.conftest import phantoms


@pytest.fixture(scope="module")
def measured(tiny_version: ModelVersion) -> Measurement:
    return measure(tiny_version, phantoms(40, 32, 7))


def measure(version: ModelVersion, held_out: np.ndarray, **probe: object) -> Measurement:
    vae = load_vae(version)
    settings = ProbeConfig.model_validate({"n_images": 64, **probe})
    return measure_model(VAEImages(vae, ""), vae, phantoms(96, 32), held_out, settings, 1, "cpu")


def test_every_figure_is_there_beside_its_floor(measured: Measurement) -> None:
    assert len(measured.recoverability) == len(measured.noise_spread) == 5
    # a VAE's images have no noise; the mean of equal readings may be off by a rounding, and so their spread
    np.testing.assert_allclose(measured.noise_spread, 0.0, atol=1e-12)
    figures = measured.quality["encoder"]
    assert figures["n"] == 40
    for name in ("fd", "kid", "precision", "recall", "density", "coverage"):
        assert np.isfinite([figures[name], figures[f"floor_{name}"]]).all()
    assert figures["fd_ratio"] == pytest.approx(figures["fd"] / figures["floor_fd"])
    assert measured.metrics.keys() <= DIRECTION.keys()
    json.dumps(measured.quality, allow_nan=False)


def test_it_is_the_same_again(measured: Measurement, tiny_version: ModelVersion) -> None:
    assert measure(tiny_version, phantoms(40, 32, 7)) == measured


def test_without_other_patients_only_the_latents_are_read(tiny_version: ModelVersion) -> None:
    alone = measure(tiny_version, phantoms(4, 32, 7))
    assert alone.quality == alone.memory == alone.metrics == {}
    assert len(alone.recoverability) == 5


def test_a_network_can_read_in_the_encoders_place(measured: Measurement, tiny_version: ModelVersion) -> None:
    torch.manual_seed(5)
    read = measure(tiny_version, phantoms(4, 32, 7), reader="network", reader_images=64, reader_steps=2)
    assert read.read_by == "network"
    assert read.recoverability != measured.recoverability
