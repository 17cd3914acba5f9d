"""Noise schedules: α and σ of every timestep, the timesteps a solver visits, and the three prediction types.

Notation: a noisy tensor is x = α·x0 + σ·eps, with the clean tensor x0 and standard normal noise eps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.errors import ConfigError

# σ/α where steps are evenly spaced in its logarithm: from data under noise 20 times as strong to noise that no
# coefficient of a flattened retina feels (they are 0.15 to 6 strong); from 0.02 on gives the same images.
LOG_NOISE = (0.05, 20.0)


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
    """The timesteps that a solver visits, with their α and σ; both end with the clean tensor, α = 1 and σ = 0.

    ``deviation``: standard deviation of the entries of clean tensors, as far as it is known; broadcasts to them.
    """

    timesteps: tuple[int, ...]  # (steps,)
    alpha: tuple[float, ...]  # (steps + 1,)
    sigma: tuple[float, ...]  # (steps + 1,)
    deviation: Tensor = field(default_factory=lambda: torch.ones(()), compare=False)

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


Spacing = Literal["timesteps", "flow-time", "log-noise"]


def make_sample_schedule(schedule: dict[str, Any], steps: int, spacing: Spacing = "timesteps") -> SampleSchedule:
    """The schedule of ``steps`` timesteps, the noisiest first; ``schedule`` as in :func:`alphas_and_sigmas`.

    ``spacing``: what they are evenly spaced in. ``timesteps``: t. ``flow-time``: σ/(α + σ), the time of a straight
    flow. ``log-noise``: log(σ/α) over :data:`LOG_NOISE`, with the noisiest timestep for the first.

    Raises:
        ConfigError: there are fewer training timesteps.
    """
    alpha, sigma = alphas_and_sigmas(schedule)
    if steps > len(alpha):
        raise ConfigError("generator.steps is impossible", expected=f"at most {len(alpha)}", got=steps)
    if spacing == "timesteps":  # "trailing" (Lin et al. 2024): starts at the noisiest timestep, as training has it
        chosen = np.round(np.arange(len(alpha), 0, -len(alpha) / steps)[:steps]).astype(int) - 1
    elif spacing == "flow-time":
        time = sigma / (alpha + sigma)
        chosen = _distinct(np.searchsorted(time, time[-1] * np.arange(steps, 0, -1) / steps), len(alpha))
    else:
        least, most = LOG_NOISE
        ratio = sigma / np.maximum(alpha, 1e-12)  # a flow starts at α = 0
        chosen = np.searchsorted(ratio, np.geomspace(most, least, steps))
        chosen[0] = len(alpha) - 1
        chosen = _distinct(chosen, len(alpha))
    return SampleSchedule(
        timesteps=tuple(int(t) for t in chosen),
        alpha=(*(float(a) for a in alpha[chosen]), 1.0),
        sigma=(*(float(s) for s in sigma[chosen]), 0.0),
    )


def _distinct(chosen: NDArray[np.int64], trained: int) -> NDArray[np.int64]:
    """Descending timesteps, each at least 1 below the one before: two targets may share one where little changes."""
    chosen = chosen.clip(0, trained - 1)
    for index in range(len(chosen) - 2, -1, -1):
        chosen[index] = max(chosen[index], chosen[index + 1] + 1)
    return np.minimum(chosen, np.arange(trained - 1, trained - 1 - len(chosen), -1))


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
