"""The parts of a design by themselves: propensity, blocks, thresholds, sites, acquisition, functionals."""

import numpy as np
import pytest

from image_longitudinal.core.random import subject_seeds
from image_longitudinal.core.study_config import Covariate, Site
from image_longitudinal.models.design.acquisition import AcquisitionShift, acquisition_shift, shift_images
from image_longitudinal.models.design.arms import WINDOW, draw_arms, draw_blocks, draw_blocks_within
from image_longitudinal.models.design.confounding import design_propensity
from image_longitudinal.models.design.covariates import covariate_values, thresholds
from image_longitudinal.models.design.functionals import summarise
from image_longitudinal.models.design.normals import unit_direction
from image_longitudinal.models.design.sites import design_sites

IDS = np.arange(20_000)


@pytest.mark.parametrize(("auc", "share"), [(0.5, 0.3), (0.65, 0.5), (0.8, 0.2), (0.95, 0.7)])
def test_a_propensity_has_its_auc_and_share(auc: float, share: float) -> None:
    """Against a simulation of 2 million subjects: the error of an AUC is below .001."""
    propensity, rng = design_propensity(auc, share), np.random.default_rng(2)
    c = rng.standard_normal(2_000_000)
    treated = rng.random(len(c)) < propensity(c)
    assert treated.mean() == pytest.approx(share, abs=0.002)
    ranks = np.empty(len(c))
    ranks[np.argsort(c)] = np.arange(1, len(c) + 1)
    n = treated.sum()
    found = (ranks[treated].sum() - n * (n + 1) / 2) / (n * (len(c) - n))
    assert found == pytest.approx(auc, abs=0.002)
    assert propensity.auc == pytest.approx(auc, abs=1e-8)
    if auc == 0.5:
        assert propensity.effective_share == pytest.approx(1.0, abs=1e-9)
    else:
        assert 0 < propensity.effective_share < 1


def test_arms_have_their_shares_and_blocks_exactly() -> None:
    shares = (0.25, 0.25, 0.5)
    arm = draw_arms(np.cumsum(shares), 3, IDS)
    assert np.bincount(arm) / len(IDS) == pytest.approx(shares, abs=0.012)  # 3 standard errors
    blocks = draw_blocks(shares, 8, 3, IDS).reshape(-1, 8)
    assert {tuple(np.bincount(block, minlength=3)) for block in blocks} == {(2, 2, 4)}
    assert len({tuple(block) for block in blocks}) > 100
    np.testing.assert_array_equal(draw_blocks(shares, 8, 3, IDS[37:90]), blocks.ravel()[37:90])


def test_blocks_within_sites_are_balanced_in_each_site_and_pure() -> None:
    sites = design_sites((0.3, 0.7))
    drawn = sites.draw(None, 5, IDS)
    arm = draw_blocks_within((0.5, 0.5), 4, 5, IDS, lambda ids: sites.draw(None, 5, ids))
    for window in range(len(IDS) // WINDOW):
        there = window == IDS // WINDOW
        for site in (0, 1):
            counts = np.bincount(arm[there & (drawn == site)], minlength=2)
            assert abs(counts[0] - counts[1]) <= 2  # the last block may be cut
    part = draw_blocks_within((0.5, 0.5), 4, 5, IDS[4090:4105], lambda ids: sites.draw(None, 5, ids))
    np.testing.assert_array_equal(part, arm[4090:4105])


def test_thresholds_give_shares_and_the_factor_of_the_correlation() -> None:
    rng, shares = np.random.default_rng(4), (0.5, 0.3, 0.2)
    x, noise = rng.standard_normal((2, 500_000))
    linked = 0.6 * x + 0.8 * noise
    covariate = Covariate(name="stage", kind="categorical", shares=shares)
    number = covariate_values(covariate, linked)
    assert np.bincount(number.astype(int)) / len(x) == pytest.approx(shares, abs=0.003)
    assert np.corrcoef(number, x)[0, 1] / thresholds(shares).factor == pytest.approx(0.6, abs=0.006)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.3])
def test_sites_correlate_with_what_they_are_tied_to(correlation: float) -> None:
    rng, shares = np.random.default_rng(6), (0.2, 0.5, 0.3)
    y = np.exp(0.5 * rng.standard_normal(len(IDS)))
    sample = np.exp(0.5 * rng.standard_normal(4000))
    draw = design_sites(shares, correlation, sample, np.full(4000, 1 / 4000))
    site = draw.draw(y, 8, IDS)
    assert np.bincount(site) / len(IDS) == pytest.approx(shares, abs=0.02)
    assert np.corrcoef(site, y)[0, 1] == pytest.approx(correlation, abs=0.03)  # of y's sample and of the draw


def test_a_site_of_strength_0_leaves_images_and_the_others_shift_them_reproducibly() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32), dtype=np.uint8)
    seeds, site = subject_seeds(1, np.arange(6)), np.array([0, 1, 0, 1, 1, 0])
    shifts = [
        acquisition_shift(Site(name="a", share=0.5), 1),
        acquisition_shift(Site(name="b", share=0.5, strength=1), 1),
    ]
    assert shifts[0] == AcquisitionShift()
    shifted = shift_images(images, seeds, site, shifts)
    np.testing.assert_array_equal(shifted[site == 0], images[site == 0])
    assert all((shifted[i] != images[i]).any() for i in np.flatnonzero(site == 1))
    np.testing.assert_array_equal(shift_images(images[3:5], seeds[3:5], site[3:5], shifts), shifted[3:5])


def test_each_part_of_a_shift_does_what_it_says() -> None:
    images, seeds = np.full((1, 20, 20), 100, np.uint8), np.array([5])
    images[0, 10] = 200
    assert (AcquisitionShift(gain=7.0)(images, seeds) == images + 7).all()
    np.testing.assert_array_equal(AcquisitionShift(offset=0.1)(images, seeds)[0, 12], images[0, 10])
    assert AcquisitionShift(contrast=1.2)(images, seeds)[0, 0, 0] == round(127.5 - 1.2 * 27.5)
    blurred = AcquisitionShift(blur=0.05)(images, seeds)[0, :, 5]
    assert blurred.max() < 200
    assert blurred[9] > 100
    noisy = AcquisitionShift(speckle=0.1)(np.full((1, 200, 200), 100, np.uint8), seeds)
    assert noisy.std() == pytest.approx(10, abs=0.5)  # a tenth of the grey level


def test_functionals_of_a_line() -> None:
    times = (0.0, 1.0, 3.0)
    line = np.array([[1.0, 3.0, 7.0]])
    found = summarise(line, times)
    assert {name: float(values[0]) for name, values in found.items()} == pytest.approx(
        {"outcome": 7.0, "area": 12.0, "slope": 2.0}
    )
    assert float(summarise(np.array([[4.0]]), (2.0,))["area"][0]) == 0


def test_a_direction_has_length_1_over_its_entries() -> None:
    drawn = unit_direction(None, "x", (1, 4), 3, 6)
    assert np.flatnonzero(drawn).tolist() == [1, 4]
    assert drawn @ drawn == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(unit_direction((3.0, 4.0), "x", (0, 2), 3, 3), [0.6, 0.0, 0.8])
    assert (unit_direction(None, "y", (1, 4), 3, 6) != drawn).any()
