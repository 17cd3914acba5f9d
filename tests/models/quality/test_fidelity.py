"""Figures of sets of images, held against torchmetrics, closed forms and direct loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd
from transformers import Dinov2Config, Dinov2Model

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.quality.fidelity import (
    dinov2_features,
    encoder_features,
    frechet_distance,
    kernel_distance,
    memory_figures,
    nearest_training_image,
    neighbourhood_shares,
    set_figures,
    training_views,
)
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import phantoms


def two_sets(n: int = 60, m: int = 50, features: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(features, features))
    return rng.normal(size=(n, features)) @ mixing, 0.3 + 1.2 * rng.normal(size=(m, features))


def test_frechet_distance_is_torchmetrics() -> None:
    a, b = two_sets()
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    reference = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(reference), rel=1e-8)


def test_frechet_distance_with_fewer_images_than_features_is_0_for_the_same_and_exact_for_a_shift() -> None:
    a = np.random.default_rng(1).normal(size=(10, 40))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 0.5) == pytest.approx(40 * 0.25, rel=1e-9)
    assert frechet_distance(a, 3 * a) == pytest.approx(
        4 * a.var(0, ddof=1).sum() + 4 * np.square(a.mean(0)).sum(), rel=1e-9
    )


def test_kernel_distance_is_torchmetrics() -> None:
    a, b = two_sets(50, 50)  # torchmetrics takes sets of one size only
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    kernels = [(p @ q.T / 7 + 1) ** 3 for p, q in ((x, x), (x, y), (y, y))]
    from torchmetrics.image.kid import maximum_mean_discrepancy

    reference = float(maximum_mean_discrepancy(*kernels))
    assert float(poly_mmd(x, y, 3, None, 1.0)) == pytest.approx(reference)
    assert kernel_distance(a, b) == pytest.approx(reference, rel=1e-9)


def test_shares_are_those_of_direct_loops() -> None:
    real, made = two_sets(30, 25, 3)
    k = 4
    radius = [sorted(np.linalg.norm(p - q) for q in real)[k] for p in real]
    made_radius = [sorted(np.linalg.norm(p - q) for q in made)[k] for p in made]
    inside = [[np.linalg.norm(p - q) <= r for p, r in zip(real, radius, strict=True)] for q in made]
    precision = np.mean([any(row) for row in inside])
    recall = np.mean([any(np.linalg.norm(p - q) <= r for q, r in zip(made, made_radius, strict=True)) for p in real])
    density = np.mean([sum(row) for row in inside]) / k
    coverage = np.mean([min(np.linalg.norm(p - q) for q in made) <= r for p, r in zip(real, radius, strict=True)])
    np.testing.assert_allclose(neighbourhood_shares(real, made, k), [precision, recall, density, coverage])
    assert 0 < precision < 1


def test_the_floor_is_what_real_images_of_others_give() -> None:
    rng = np.random.default_rng(2)
    train, held_out = rng.normal(size=(300, 4)), rng.normal(size=(120, 4))
    good, bad = rng.normal(size=(200, 4)), 0.2 * rng.normal(size=(200, 4)) + 1
    same, off = set_figures(train, held_out, good, 0), set_figures(train, held_out, bad, 0)
    assert same.n == 120
    assert same.fd_ratio == pytest.approx(1, abs=0.7)  # n = 120 leaves that much chance
    assert off.fd_ratio > 10
    assert off.floor_fd == same.floor_fd
    assert abs(same.kid) < 0.1 * off.kid
    assert off.recall < 0.3 < same.recall
    assert off.coverage < 0.5 < same.coverage


def test_copies_of_training_images_are_found_mirrored_and_cropped() -> None:
    training, new = phantoms(40, 64), phantoms(30, 64, 5)
    copies = training_views(training[:20], 3)  # what a generator that remembers would make
    found = memory_figures(copies, training_views(new, 3), training)
    assert found.nearest_ratio < 0.9
    honest = memory_figures(training_views(phantoms(30, 64, 6), 4), training_views(new, 3), training)
    assert honest.nearest_ratio > found.nearest_ratio
    centre = nearest_training_image(training[:3, :, ::-1].copy(), training)
    assert centre.shape == (3,)


def test_the_distance_to_the_nearest_is_that_of_a_direct_loop() -> None:
    from torch.nn.functional import interpolate

    training, images = phantoms(5, 32), phantoms(4, 32, 2)
    size, rows = 32, round(32 * 190 / 224)
    nearest = np.full(4, np.inf)
    for picture in training:
        for top in (0, (size - rows) // 2, size - rows):
            crop = torch.from_numpy(picture[None, None, top : top + rows].copy()).float() / 255
            view = interpolate(crop, (size, size), mode="bilinear", antialias=True).numpy()[0, 0]
            for shown in (view, view[:, ::-1]):
                nearest = np.minimum(nearest, np.sqrt(np.square(images / 255 - shown).mean((1, 2))))
    np.testing.assert_allclose(nearest_training_image(images, training), nearest, rtol=1e-4)


def test_features_of_the_encoder_are_those_before_its_heads() -> None:
    vae = VAE(32, 5, 1 / 64).eval()
    features = encoder_features(vae)(phantoms(3, 64))  # of another size
    assert features.shape == (3, vae.encoder.mean.in_features)
    same = encoder_features(vae)(phantoms(3, 32))
    head = vae.encoder.mean(torch.from_numpy(same).float().relu())
    with torch.no_grad():
        expected, _ = vae.encoder(torch.from_numpy(phantoms(3, 32))[:, None].float() / 255)
    torch.testing.assert_close(head, expected, atol=1e-5, rtol=1e-4)


def test_dinov2_is_read_from_a_local_folder(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=2)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2", safe_serialization=True)
    features = dinov2_features(str(tmp_path / "dinov2"))(phantoms(3, 64))
    assert features.shape == (3, 16)
    assert np.abs(features[0] - features[1]).max() > 1e-6
    with pytest.raises(ModelError, match=r"cannot load the DINOv2 network .*probe\.dinov2"):
        dinov2_features(str(tmp_path / "none"))
