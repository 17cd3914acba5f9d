"""Figures of sets of images, held against torchmetrics, closed forms and direct loops."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd

from image_longitudinal.models.quality.fidelity import (
    fidelity_figures,
    frechet_distance,
    kernel_distance,
    neighbourhood_fractions,
)


def two_sets(n: int = 60, m: int = 50, features: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(features, features))
    return rng.normal(size=(n, features)) @ mixing, 0.3 + 1.2 * rng.normal(size=(m, features))


def test_frechet_distance_is_torchmetrics_and_exact_with_fewer_images_than_features() -> None:
    a, b = two_sets()
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    reference = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(reference), rel=1e-8)
    few = np.random.default_rng(1).normal(size=(10, 40))
    tripled = 4 * few.var(0, ddof=1).sum() + 4 * np.square(few.mean(0)).sum()
    for other, expected in ((few, 0), (few + 0.5, 40 * 0.25), (3 * few, tripled)):
        assert frechet_distance(few, other) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_kernel_distance_is_torchmetrics() -> None:
    a, b = two_sets(50, 50)  # torchmetrics takes sets of one size only
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    kernels = [(p @ q.T / 7 + 1) ** 3 for p, q in ((x, x), (x, y), (y, y))]
    reference = float(maximum_mean_discrepancy(*kernels))
    assert float(poly_mmd(x, y, 3, None, 1.0)) == pytest.approx(reference)
    assert kernel_distance(a, b) == pytest.approx(reference, rel=1e-9)


def test_fractions_are_those_of_direct_loops() -> None:
    real, made = two_sets(30, 25, 3)
    k = 4
    radius = [sorted(np.linalg.norm(p - q) for q in real)[k] for p in real]
    made_radius = [sorted(np.linalg.norm(p - q) for q in made)[k] for p in made]
    inside = [[np.linalg.norm(p - q) <= r for p, r in zip(real, radius, strict=True)] for q in made]
    precision = np.mean([any(row) for row in inside])
    recall = np.mean([any(np.linalg.norm(p - q) <= r for q, r in zip(made, made_radius, strict=True)) for p in real])
    density = np.mean([sum(row) for row in inside]) / k
    coverage = np.mean([min(np.linalg.norm(p - q) for q in made) <= r for p, r in zip(real, radius, strict=True)])
    np.testing.assert_allclose(neighbourhood_fractions(real, made, k), [precision, recall, density, coverage])
    assert 0 < precision < 1


def test_the_floor_is_what_real_images_of_others_give() -> None:
    rng = np.random.default_rng(2)
    train, held_out = rng.normal(size=(300, 4)), rng.normal(size=(120, 4))
    good, bad = rng.normal(size=(200, 4)), 0.2 * rng.normal(size=(200, 4)) + 1
    same, off = fidelity_figures(train, held_out, good, 0), fidelity_figures(train, held_out, bad, 0)
    assert same.n == 120
    assert off.floor == same.floor
    assert same.generated.fd / same.floor.fd == pytest.approx(1, abs=0.7)  # n = 120 leaves that much chance
    assert off.generated.fd > 10 * same.floor.fd
    assert abs(same.generated.kid) < 0.1 * off.generated.kid
    assert off.generated.recall < 0.3 < same.generated.recall
    assert off.generated.coverage < 0.5 < same.generated.coverage
