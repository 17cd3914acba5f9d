"""Ω around g from Gaussian evidence that is known."""

import numpy as np
import pytest

from image_longitudinal.models.image_effects.evidence import Evidence
from image_longitudinal.models.image_effects.residual_omega import likeliest_omega, omega_scores

TRUE = np.array([[0.5, 0.2], [0.2, 0.8]])


def known(n: int, omega: np.ndarray, noise: float = 0.3) -> tuple[Evidence, np.ndarray]:
    """Subjects with η ~ N(mean, omega), each seen with error; the second effect of every other one is not seen."""
    rng = np.random.default_rng(2)
    mean = rng.normal(size=(n, 2))
    eta = mean + rng.normal(size=(n, 2)) @ np.linalg.cholesky(omega).T
    precision = np.tile(np.eye(2) / noise, (n, 1, 1))
    precision[::2, 1, 1] = 0.0
    seen = eta + np.sqrt(noise) * rng.normal(size=(n, 2))
    return Evidence(precision, np.einsum("nab,nb->na", precision, seen), np.zeros(n)), mean


def test_it_finds_the_covariance_around_the_right_means() -> None:
    """4,000 subjects: standard errors about .02 (.03 where half are unseen); three of them."""
    subjects, mean = known(4000, TRUE)
    np.testing.assert_allclose(likeliest_omega(subjects, mean, np.eye(2), np.eye(2)), TRUE, atol=0.09)


def test_around_wrong_means_it_is_larger() -> None:
    subjects, mean = known(1000, TRUE)
    right = likeliest_omega(subjects, mean, np.eye(2), np.eye(2))
    wrong = likeliest_omega(subjects, mean[::-1], np.eye(2), np.eye(2))
    assert (np.diag(wrong) > np.diag(right) + 0.5).all()


def test_scores_are_the_derivatives_of_the_likelihood() -> None:
    subjects, mean = known(5, TRUE)
    scores = omega_scores(subjects, mean, TRUE)
    for place, (i, j) in enumerate(zip(*np.tril_indices(2), strict=True)):
        move = np.zeros((2, 2))
        move[i, j] = move[j, i] = 1e-5
        difference = subjects.objective(mean, TRUE + move) - subjects.objective(mean, TRUE - move)
        np.testing.assert_allclose(scores.score[:, place], -0.25 * difference / 1e-5, rtol=1e-5, atol=1e-7)


def test_nothing_seen_leaves_the_start() -> None:
    subjects, mean = known(50, TRUE)
    blind = Evidence(np.zeros_like(subjects.precision), np.zeros_like(subjects.shift), np.zeros(50))
    np.testing.assert_allclose(likeliest_omega(blind, mean, TRUE, np.eye(2)), TRUE, rtol=1e-9)


def test_a_variance_of_zero_stays_above_zero() -> None:
    subjects, mean = known(500, 1e-9 * np.eye(2))
    found = likeliest_omega(subjects, mean, np.eye(2), np.eye(2))
    assert np.linalg.eigvalsh(found).min() == pytest.approx(1e-3, rel=1e-6)


def test_means_that_moved_beside_covariances_that_did_not_narrow_leave_a_bounded_omega() -> None:
    """Such a likelihood rises for ever: Ω would end as infinity, and its inverse as a singular matrix."""
    subjects, mean = known(300, TRUE)
    shift = subjects.shift.copy()
    shift[::2, 1] = np.random.default_rng(0).normal(0, 3, 150)
    endless = Evidence(subjects.precision, shift, subjects.constant)
    found = likeliest_omega(endless, mean, np.eye(2), np.eye(2))
    assert np.linalg.eigvalsh(found).max() == pytest.approx(10.0, rel=1e-6)
