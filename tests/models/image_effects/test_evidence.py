"""What outcomes say: derivatives of the model's own likelihood, by modes and by sampling."""

import numpy as np
import pytest

from image_longitudinal.models.evaluation.subject_likelihood import OffsetObjective
from image_longitudinal.models.image_effects.evidence import evidence
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from tests.models.image_effects.conftest import MODEL, trial

N = 12
OMEGA = np.array([[0.09, 0.01, 0.0], [0.01, 0.05, 0.02], [0.0, 0.02, 0.06]])


def objectives(mean: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """The FOCEI objective of each subject, modes found anew."""
    base = PopulationParameters.of(MODEL)
    values = PopulationParameters(base.mu, omega, base.error)
    return OffsetObjective.over(values.into(MODEL), trial().data.subset(0, N), mean).evaluate(values)


def test_the_gradient_by_g_is_that_of_the_likelihood() -> None:
    """Central differences of the FOCEI objective, whose modes move: the solver's noise leaves 1e-4 of a unit."""
    mean = np.random.default_rng(0).normal(0, 0.1, (N, 3))
    found = evidence(MODEL, trial().data.subset(0, N), mean, OMEGA)
    score = found.score(mean, OMEGA)[0]
    np.testing.assert_allclose(found.objective(mean, OMEGA), objectives(mean, OMEGA), atol=1e-6)
    for effect in range(3):
        move = np.zeros(3)
        move[effect] = 1e-4
        difference = (objectives(mean + move, OMEGA) - objectives(mean - move, OMEGA)) / 2e-4
        np.testing.assert_allclose(-2 * score[:, effect], difference, atol=2e-3, rtol=1e-3)


def test_the_gradient_by_omega_is_that_of_the_likelihood() -> None:
    """Of all subjects together, as Ω is fitted; covariances are bounded by the prior, which costs up to 2 %."""
    mean = np.random.default_rng(0).normal(0, 0.1, (N, 3))
    found = evidence(MODEL, trial().data.subset(0, N), mean, OMEGA)
    for i, j in ((0, 0), (1, 1), (2, 1)):
        move = np.zeros((3, 3))
        move[i, j] = move[j, i] = 1e-5
        expected = (objectives(mean, OMEGA + move) - objectives(mean, OMEGA - move)).sum() / 2e-5
        own = (found.objective(mean, OMEGA + move) - found.objective(mean, OMEGA - move)).sum() / 2e-5
        assert own == pytest.approx(expected, rel=0.02, abs=1.0)


def test_sampling_agrees_with_modes_where_outcomes_are_nearly_normal() -> None:
    """Posterior means by both: they differ by a tenth of the posterior's standard deviation on average."""
    data, mean = trial().data.subset(0, N), np.zeros((N, 3))
    by_modes = evidence(MODEL, data, mean, OMEGA).posterior(mean, OMEGA)
    by_draws = evidence(MODEL, data, mean, OMEGA, by="imp").posterior(mean, OMEGA)
    sd = np.sqrt(np.einsum("naa->na", by_modes[1]))
    assert (np.abs(by_draws[0] - by_modes[0]) / sd).mean() < 0.15
    np.testing.assert_allclose(np.sqrt(np.einsum("naa->na", by_draws[1])) / sd, 1.0, atol=0.35)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    data, mean = trial().data.subset(0, N), np.zeros((N, 3))
    for by in ("focei", "imp"):
        one, two = (evidence(MODEL, data, mean, OMEGA, by=by, workers=workers) for workers in (1, 2))
        np.testing.assert_array_equal(one.shift, two.shift)
