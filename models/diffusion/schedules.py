"""Noise schedules: α and σ of every timestep, the timesteps a solver visits, and the three prediction types.

Notation: a noisy tensor is x = α·x0 + σ·eps, with the clean tensor x0 and standard normal noise eps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from image_longitudinal.core.errors import ConfigError


class X0Eps(NamedTuple):
    """The two parts of a noisy tensor, of its shape: the clean tensor and the noise."""

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """α and σ of every training timestep, float32 (T,), and the prediction type of the network."""

    alpha: Tensor
    sigma: Tensor
    prediction_type: str

    @classmethod
    def of(cls, schedule: dict[str, Any]) -> NoiseSchedule:
        """That of a :attr:`DiffusionModel.schedule`."""
        alpha, sigma = (torch.from_numpy(values).float() for values in alphas_and_sigmas(schedule))
        return cls(alpha, sigma, str(schedule["prediction_type"]))


@dataclass(frozen=True)
class SampleSchedule:
    """The timesteps that a solver visits, with their α and σ; both end with the clean tensor, α = 1 and σ = 0."""

    timesteps: tuple[int, ...]  # (steps,)
    alpha: tuple[float, ...]  # (steps + 1,)
    sigma: tuple[float, ...]  # (steps + 1,)

    @property
    def steps(self) -> int:
        """Number of timesteps."""
        return len(self.timesteps)


def alphas_and_sigmas(schedule: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """α and σ of every training timestep, float64 (T,) each; ``schedule`` has the keys of diffusers' schedulers.

    A flow (``prediction_type`` ``flow_prediction``, Lipman et al. 2023) is straight: σ = (t + 1)/T, α = 1 - σ.
    """
    trained = int(schedule["num_train_timesteps"])
    if schedule["prediction_type"] == "flow_prediction":
        sigma = np.arange(1, trained + 1) / trained
        return 1 - sigma, sigma
    # Only what the noise schedule needs: a config may hold keys of another scheduler.
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    from diffusers import DDPMScheduler  # here: diffusers takes seconds to import

    scheduler = DDPMScheduler(**{key: schedule[key] for key in keys if key in schedule})
    alpha_squared = scheduler.alphas_cumprod.double().numpy()
    return np.sqrt(alpha_squared), np.sqrt(1 - alpha_squared)


def make_sample_schedule(schedule: dict[str, Any], steps: int, *, uniform_flow_time: bool = False) -> SampleSchedule:
    """The schedule of ``steps`` timesteps, the noisiest first; ``schedule`` as in :func:`alphas_and_sigmas`.

    With ``uniform_flow_time`` they are evenly spaced in σ/(α + σ), the time of a straight flow, instead of in t.

    Raises:
        ConfigError: there are fewer training timesteps.
    """
    alpha, sigma = alphas_and_sigmas(schedule)
    if steps > len(alpha):
        raise ConfigError("generator.steps is impossible", expected=f"at most {len(alpha)}", got=steps)
    if uniform_flow_time:
        time = sigma / (alpha + sigma)
        chosen = np.searchsorted(time, time[-1] * np.arange(steps, 0, -1) / steps).clip(0, len(time) - 1)
        # Where time is nearly constant over several timesteps, two targets may coincide: keep the timesteps distinct.
        for index in range(steps - 2, -1, -1):
            chosen[index] = max(chosen[index], chosen[index + 1] + 1)
        chosen = np.minimum(chosen, np.arange(len(time) - 1, len(time) - 1 - steps, -1))
    else:  # "trailing" (Lin et al. 2024): starts at the noisiest timestep, as training has it
        chosen = np.round(np.arange(len(alpha), 0, -len(alpha) / steps)[:steps]).astype(int) - 1
    return SampleSchedule(
        timesteps=tuple(int(t) for t in chosen),
        alpha=(*(float(a) for a in alpha[chosen]), 1.0),
        sigma=(*(float(s) for s in sigma[chosen]), 0.0),
    )


def to_x0_eps(
    prediction: Tensor, x: Tensor, alpha: float | Tensor, sigma: float | Tensor, prediction_type: str
) -> X0Eps:
    """Clean tensor and noise of x according to a network's prediction; α and σ may differ between images.

    Raises:
        ConfigError: no such prediction type.
    """
    if prediction_type == "epsilon":
        return X0Eps((x - sigma * prediction) / alpha, prediction)
    if prediction_type == "v_prediction":
        return X0Eps(alpha * x - sigma * prediction, sigma * x + alpha * prediction)
    if prediction_type == "flow_prediction":
        return X0Eps(x - sigma * prediction, x + alpha * prediction)
    expected = "epsilon, v_prediction or flow_prediction"
    raise ConfigError("the model's prediction type is unknown", expected=expected, got=prediction_type)


def prediction_target(
    x0: Tensor, eps: Tensor, alpha: float | Tensor, sigma: float | Tensor, prediction_type: str
) -> Tensor:
    """The exact prediction for x = α·x0 + σ·eps, the inverse of :func:`to_x0_eps`.

    Noise for ``epsilon``; the velocity α·eps - σ·x0 for ``v_prediction`` (Salimans & Ho 2022, for α² + σ² = 1); the
    flow's velocity eps - x0 for ``flow_prediction`` (for α + σ = 1).
    """
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "flow_prediction": eps - x0}[prediction_type]
