"""Integrals over random effects by sampling: against brute force, and calibrated where Ω less Cov(g) is not."""

import numpy as np
import pytest

from image_longitudinal.models.evaluation.image_informed import residual_omega
from image_longitudinal.models.evaluation.subject_likelihood import likeliest_omega, posterior_means, with_omega
from image_longitudinal.models.nlme.simulation.simulate import simulate
from tests.models.evaluation.conftest import MODEL, TRAIN, coverage, population

FEW, MANY = slice(0, 700), slice(TRAIN, None)


def test_posterior_means_are_those_of_many_draws_from_the_prior() -> None:
    people, omega = population(1.0), 0.05 * np.eye(3)
    observed, offsets = people.observed[:15], people.eta[:15] + 0.1
    modes, means = posterior_means(with_omega(MODEL, omega), observed, offsets, offsets)
    expected, density = np.empty_like(means), np.empty(15)
    noise = np.random.default_rng(0).normal(size=(8_000, 3)) @ np.linalg.cholesky(omega).T
    for i in range(15):
        prediction = simulate(MODEL, offsets[i] + noise)
        logs = -0.5 * np.square((observed[i] - prediction) / 0.01).sum(1)
        weights = np.exp(logs - logs.max())
        expected[i] = offsets[i] + weights @ noise / weights.sum()
        density[i] = -2 * (logs.max() + np.log(weights.mean()) + 21 * np.log(1 / 0.01))
    # effects vary by 0.22; the mean of 60 weighted draws errs by about a seventh of what of it the data leave
    assert np.abs(means - expected).mean() < 0.02
    assert abs((means - expected).mean()) < 0.008
    assert modes.objective.mean() == pytest.approx(density.mean(), abs=0.1)


@pytest.mark.parametrize("slope", [1.5, 0.6])
def test_regions_hold_what_they_should_where_g_overshoots_or_falls_short(slope: float) -> None:
    """g = slope · E[η | z] at ρ² = 0.5 leaves 0.5 + (slope - 1)² / 2 of a variance of 1. Ω less Cov(g) would be
    1 - slope² / 2: negative for 1.5, too large for 0.6.
    """
    people = population(0.5)
    mean = slope * np.sqrt(0.5) * people.linked
    formula = residual_omega(np.asarray(MODEL.omega), mean[FEW])
    found = likeliest_omega(MODEL, people.observed[FEW], mean[FEW], people.modes[FEW], np.asarray(MODEL.omega))
    # a variance of 700 subjects errs by 5 %, by more if data say little about an effect: three times that
    np.testing.assert_allclose(found, (0.5 + (slope - 1) ** 2 / 2) * np.eye(3), atol=0.16)

    distance = people.eta[MANY] - mean[MANY]
    assert coverage(distance, found) == pytest.approx(0.9, abs=0.03)  # three standard errors of 1,500 subjects: 2.3 %
    assert not 0.5 <= coverage(distance, formula) <= 0.94


def test_where_few_data_say_nothing_the_directions_are_taken_to_be_alike() -> None:
    """All but 1 % is known: without that, what 300 subjects leave of some direction is 0 or several times it."""
    people, few = population(1.0), slice(0, 300)
    offsets = people.features[few, :3]  # the effects, each off by 0.1
    total = np.asarray(MODEL.omega)
    left = likeliest_omega(with_omega(MODEL, 0.03 * total), people.observed[few], offsets, people.modes[few], total)
    fractions = np.linalg.eigvalsh(left)
    assert 0.004 < fractions.min() <= fractions.max() < 0.03
