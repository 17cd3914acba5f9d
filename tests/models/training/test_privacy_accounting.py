"""ε of a private training: against the exact value where there is one, and what is refused."""

import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from image_longitudinal.core.config import PrivacyConfig
from image_longitudinal.core.errors import MissingExtraError, ModelError
from image_longitudinal.models.training.privacy_accounting import TOLERANCE, epsilon_of, planned_privacy


def exact_epsilon(noise: float, steps: int, delta: float) -> float:
    """Of Gaussian noise on sums over all patients, without samples (Balle & Wang 2018, arXiv 1805.06530, theorem 8)."""
    mu = np.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(("noise", "steps"), [(4.0, 1), (4.0, 30), (20.0, 100)])
def test_without_sampling_epsilon_is_hardly_above_the_exact_one(noise: float, steps: int) -> None:
    """Rényi's bound is never below; with its conversion it is within a tenth here (found: 8 to 9 %)."""
    pytest.importorskip("opacus")
    exact, found = exact_epsilon(noise, steps, 1e-5), epsilon_of(noise, 1.0, steps, 1e-5)
    assert exact <= found < 1.1 * exact


def test_epsilon_falls_with_noise_and_rises_with_steps_and_sampling() -> None:
    pytest.importorskip("opacus")
    base = epsilon_of(1.0, 0.01, 1000, 1e-5)
    assert epsilon_of(1.2, 0.01, 1000, 1e-5) < base
    assert epsilon_of(1.0, 0.01, 1100, 1e-5) > base
    assert epsilon_of(1.0, 0.011, 1000, 1e-5) > base
    assert epsilon_of(1.0, 0.01, 1000, 1e-6) > base


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_the_noise_for_an_epsilon_gives_it_and_the_record_repeats_it(epsilon: float) -> None:
    pytest.importorskip("opacus")
    plan = planned_privacy(PrivacyConfig(epsilon=epsilon, delta=1e-6, max_grad_norm=0.3), 1000, 20, 500)
    assert epsilon - TOLERANCE <= plan.epsilon <= epsilon
    assert (plan.patients, plan.sampling_rate, plan.steps, plan.max_grad_norm) == (1000, 0.02, 500, 0.3)
    assert plan.epsilon == epsilon_of(plan.noise_multiplier, plan.sampling_rate, plan.steps, plan.delta)
    assert plan.accountant.startswith("Rényi, opacus ")
    given = PrivacyConfig(noise_multiplier=plan.noise_multiplier, delta=1e-6)
    assert planned_privacy(given, 1000, 20, 500).epsilon == plan.epsilon


def test_plans_that_promise_nothing_are_refused() -> None:
    pytest.importorskip("opacus")
    with pytest.raises(ModelError, match=r"too few patients for private training.*at most the 10 patients.*got 20"):
        planned_privacy(PrivacyConfig(epsilon=3), 10, 20, 5)
    with pytest.raises(ModelError, match="δ is too large"):
        planned_privacy(PrivacyConfig(epsilon=3, delta=0.01), 100, 20, 5)
    with pytest.raises(ModelError, match="no noise is enough for this ε"):
        planned_privacy(PrivacyConfig(epsilon=1e-9), 100, 20, 5)


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(MissingExtraError, match=r"image-longitudinal\[dp\]"):
        planned_privacy(PrivacyConfig(epsilon=3), 100, 20, 5)
