"""What is measured of a finished model: generated as a data set's images are, and repeatable."""

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.imaging.backends import vae_images
from image_longitudinal.models.quality.judge.judge import RealScans
from image_longitudinal.models.quality.judge.networks import load_judge
from image_longitudinal.models.quality.model_metrics import JudgedScans, RealImages, measure_image_model
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.models.registry.registry import ModelVersion
from tests.models.conftest import phantoms


@pytest.fixture(scope="module")
def measured(tiny_version: ModelVersion) -> Measurement:
    return measure(tiny_version, phantoms(40, 32, 7))


def measure(version: ModelVersion, held_out: np.ndarray, **probe: object) -> Measurement:
    vae = load_vae(version)
    settings = ProbeConfig.model_validate({"n_images": 64, **probe})
    return measure_image_model(
        vae_images(vae, ""), vae, RealImages(phantoms(96, 32), held_out, "h"), settings, 1, "cpu"
    )


def test_every_figure_has_its_floor_and_is_repeatable(measured: Measurement, tiny_version: ModelVersion) -> None:
    assert len(measured.recoverability) == len(measured.noise_spread) == 5
    # a VAE's images have no noise; the mean of equal readings may be off by a rounding, and so their spread
    np.testing.assert_allclose(measured.noise_spread, 0.0, atol=1e-12)
    assert sorted(measured.latent_order) == list(range(5))
    assert (measured.held_out, measured.fidelity["encoder"].n) == ("h", 40)
    assert measured.memorisation is not None
    assert measured.memorisation.nearest_ratio > 0
    assert Measurement.model_validate_json(measured.model_dump_json()) == measured, "finite, and stored exactly"
    assert measure(tiny_version, phantoms(40, 32, 7)) == measured


def test_without_other_patients_only_the_latents_are_read_here_by_a_network(
    measured: Measurement, tiny_version: ModelVersion
) -> None:
    torch.manual_seed(5)
    alone = measure(tiny_version, phantoms(4, 32, 7), reader="network", reader_images=64, reader_steps=2)
    assert (alone.fidelity, alone.memorisation, alone.read_by) == ({}, None, "network")
    assert len(alone.recoverability) == 5
    assert alone.recoverability != measured.recoverability


def test_images_are_judged_beside_as_many_held_out_scans(measured: Measurement, tiny_version: ModelVersion) -> None:
    vae, held_out = load_vae(tiny_version), phantoms(40, 32, 7)
    train, new = (RealScans(one, np.arange(len(one)).astype(str)) for one in (phantoms(20, 32), held_out[:12]))
    found = measure_image_model(
        vae_images(vae, ""), vae, RealImages(phantoms(96, 32), held_out, "h"), ProbeConfig(n_images=64), 1, "cpu",
        JudgedScans(load_judge(), train, new),
    )  # fmt: skip
    judgement = found.judgement
    assert judgement is not None
    assert (judgement.n, judgement.judge.digest) == (12, load_judge().digest)
    assert judgement.measures.frechet.value > judgement.measures.frechet.null_high, "a VAE's images are smooth"
    assert found.membership is not None
    assert (found.membership.members, found.membership.others, found.membership.diffusion_auc) == (20, 12, None)
    assert judgement.training_patients is not None
    assert judgement.training_patients.patients == 20
    assert found.model_copy(update={"judgement": None, "membership": None}) == measured
    assert found.recoverability_intervals is not None
    for value, interval in zip(found.recoverability, found.recoverability_intervals, strict=True):
        assert interval.value == pytest.approx(value)
        assert interval.low < value < interval.high <= 1
