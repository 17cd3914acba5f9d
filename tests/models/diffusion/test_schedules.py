"""Noise schedules: the timesteps of a solver, and the prediction types."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.diffusion import schedules
from image_longitudinal.models.diffusion.schedules import alphas_and_sigmas, make_sample_schedule, to_x0_eps
from tests.models.diffusion.conftest import COSINE, FLOW
from tests.models.diffusion.test_solvers import STABLE
from tests.models.diffusion.test_solvers import noise as normal


@pytest.mark.parametrize("schedule", [COSINE, STABLE, FLOW], ids=["cosine", "stable-diffusion", "flow"])
@pytest.mark.parametrize("spacing", ["timesteps", "flow-time", "log-noise"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 999, 1000])
def test_timesteps_start_at_the_noisiest_and_strictly_decrease(
    schedule: dict[str, Any], spacing: schedules.Spacing, steps: int
) -> None:
    sampled = make_sample_schedule(schedule, steps, spacing)
    assert sampled.steps == steps == len(sampled.alpha) - 1 == len(sampled.sigma) - 1
    assert sampled.timesteps[0] == 999
    assert list(sampled.timesteps) == sorted(set(sampled.timesteps), reverse=True)
    assert sampled.timesteps[-1] >= 0
    assert (sampled.alpha[-1], sampled.sigma[-1]) == (1, 0)
    assert all(a < b for a, b in zip(sampled.alpha, sampled.alpha[1:], strict=False))


@pytest.mark.parametrize("schedule", [COSINE, STABLE, FLOW], ids=["v", "epsilon", "flow"])
def test_the_exact_prediction_gives_back_x0_and_eps(schedule: dict[str, Any]) -> None:
    alpha, sigma = (float(values[400]) for values in alphas_and_sigmas(schedule))
    clean, noise, kind = normal(1), normal(2), schedule["prediction_type"]
    exact = schedules.prediction_target(clean, noise, alpha, sigma, kind)
    parts = to_x0_eps(exact, alpha * clean + sigma * noise, alpha, sigma, kind)
    torch.testing.assert_close(parts.x0, clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.eps, noise, atol=1e-5, rtol=0)


def test_more_steps_than_training_timesteps_and_unknown_predictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 1000; got 1001"):
        make_sample_schedule(COSINE, 1001)
    with pytest.raises(ConfigError, match="expected epsilon, v_prediction or flow_prediction; got score"):
        to_x0_eps(normal(0), normal(1), 0.5, 0.5, "score")


def test_alphas_and_sigmas_are_those_of_diffusers() -> None:
    alpha, sigma = alphas_and_sigmas(STABLE)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-12)
    reference = DDIMScheduler(**STABLE).alphas_cumprod.numpy()
    np.testing.assert_allclose(alpha**2, reference, atol=1e-7)
