"""Solvers: from noise to a clean tensor in few evaluations of a network, as free functions over any noise schedule.

Every solver is a plain loop over numbers known beforehand: diffusers' schedulers look up timesteps on the device at
every step, keep state between calls and draw their noise from one generator, which costs the device its queue and a
subject its own noise. The tests hold each of these against diffusers' scheduler of the same name.

Notation: a noisy tensor is x = α·clean + σ·noise; λ = log(α/σ).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from image_longitudinal.core.errors import ConfigError


class Split(NamedTuple):
    """What a network takes a noisy tensor apart into."""

    clean: Tensor
    noise: Tensor


Denoise = Callable[[Tensor, int], Split]  # (x, index on the path) → its parts
Draw = Callable[[int], Tensor]  # fresh standard normal noise of one step
Solver = Callable[[Tensor, "NoisePath", Denoise, Draw], Tensor]


@dataclass(frozen=True)
class NoisePath:
    """α and σ at the timesteps a solver visits, and at the end of its way: the clean tensor, α = 1 and σ = 0."""

    timesteps: tuple[int, ...]  # (steps,)
    alpha: tuple[float, ...]  # (steps + 1,)
    sigma: tuple[float, ...]  # (steps + 1,)

    @property
    def steps(self) -> int:
        """Moves from one timestep to the next."""
        return len(self.timesteps)


def alphas_and_sigmas(schedule: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """α and σ of every timestep trained on, float64 (T,) each; ``schedule`` as diffusers' schedulers take it.

    A flow (``prediction_type`` ``flow_prediction``, Lipman et al. 2023) goes straight: σ = (t + 1)/T, α = 1 - σ.
    """
    trained = int(schedule["num_train_timesteps"])
    if schedule["prediction_type"] == "flow_prediction":
        sigma = np.arange(1, trained + 1) / trained
        return 1 - sigma, sigma
    # Only what the noise schedule needs: a config may hold keys of another scheduler.
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    from diffusers import DDPMScheduler  # here: diffusers takes seconds to import

    plan = DDPMScheduler(**{key: schedule[key] for key in keys if key in schedule})
    kept = plan.alphas_cumprod.double().numpy()
    return np.sqrt(kept), np.sqrt(1 - kept)


def make_path(schedule: dict[str, Any], steps: int, *, even_flow: bool = False) -> NoisePath:
    """The way of ``steps`` timesteps, the noisiest first.

    Args:
        schedule: see :func:`alphas_and_sigmas`.
        steps: at most as many as were trained on.
        even_flow: space them evenly in σ/(α + σ), the time of a straight flow, in place of evenly in timesteps.

    Raises:
        ConfigError: there are fewer timesteps.
    """
    alpha, sigma = alphas_and_sigmas(schedule)
    if steps > len(alpha):
        raise ConfigError("generator.steps is impossible", expected=f"at most {len(alpha)}", got=steps)
    if even_flow:
        time = sigma / (alpha + sigma)
        chosen = np.searchsorted(time, time[-1] * np.arange(steps, 0, -1) / steps).clip(0, len(time) - 1)
        # Where time hardly moves from one timestep to the next two targets may meet: each keeps a timestep of its own.
        for index in range(steps - 2, -1, -1):
            chosen[index] = max(chosen[index], chosen[index + 1] + 1)
        chosen = np.minimum(chosen, np.arange(len(time) - 1, len(time) - 1 - steps, -1))
    else:  # Lin et al. 2024: ends at the noisiest timestep, as training does
        chosen = np.round(np.arange(len(alpha), 0, -len(alpha) / steps)[:steps]).astype(int) - 1
    return NoisePath(
        timesteps=tuple(int(t) for t in chosen),
        alpha=(*(float(a) for a in alpha[chosen]), 1.0),
        sigma=(*(float(s) for s in sigma[chosen]), 0.0),
    )


def split(prediction: Tensor, x: Tensor, alpha: float | Tensor, sigma: float | Tensor, kind: str) -> Split:
    """Take x apart by what a network of prediction type ``kind`` says of it; α and σ may differ between images.

    Raises:
        ConfigError: no such prediction type.
    """
    if kind == "epsilon":
        return Split((x - sigma * prediction) / alpha, prediction)
    if kind == "v_prediction":  # Salimans & Ho 2022: v = α·noise - σ·clean, for α² + σ² = 1
        return Split(alpha * x - sigma * prediction, sigma * x + alpha * prediction)
    if kind == "flow_prediction":  # noise - clean, for α + σ = 1
        return Split(x - sigma * prediction, x + alpha * prediction)
    raise ConfigError(
        "the model's prediction type is unknown", expected="epsilon, v_prediction or flow_prediction", got=kind
    )


def ddim(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """Song et al. 2021, deterministic; first order. The Euler method in every coordinate that scales x."""
    for i in range(path.steps):
        clean, noise = denoise(x, i)
        x = path.alpha[i + 1] * clean + path.sigma[i + 1] * noise
    return x


def ddpm(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """Ho et al. 2020, the original's: ancestral sampling with the posterior's variance."""
    for i in range(path.steps):
        clean, noise = denoise(x, i)
        a, s, a1, s1 = path.alpha[i], path.sigma[i], path.alpha[i + 1], path.sigma[i + 1]
        fresh = s1 / s * math.sqrt(max(s**2 - (a / a1 * s1) ** 2, 0.0))
        x = a1 * clean + math.sqrt(max(s1**2 - fresh**2, 0.0)) * noise
        if fresh:
            x = x + fresh * draw(i)
    return x


def dpm_solver(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022: second order, one evaluation a step; first order at both ends."""
    return _dpm_solver(x, path, denoise, None)


def sde_dpm_solver(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """SDE-DPM-Solver++(2M), Lu et al. 2022: the same of the reverse *stochastic* equation, noise at every step.

    Fresh noise replaces what earlier steps got wrong, as in ddpm, whose few-step form this is.
    """
    return _dpm_solver(x, path, denoise, draw)


def _dpm_solver(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw | None) -> Tensor:
    before: Tensor | None = None
    for i in range(path.steps):
        clean = denoise(x, i).clean
        if i + 1 == path.steps:
            return clean
        h = _lambda(path, i + 1) - _lambda(path, i)
        direction = clean
        if before is not None:
            direction = clean + (clean - before) * (h / (_lambda(path, i) - _lambda(path, i - 1)) / 2)
        alpha, sigma = path.alpha[i + 1], path.sigma[i + 1]
        if draw is None:
            x = sigma / path.sigma[i] * x - alpha * math.expm1(-h) * direction
        else:
            fresh = -math.expm1(-2 * h)  # share of the variance
            x = sigma / path.sigma[i] * math.exp(-h) * x + alpha * fresh * direction + sigma * fresh**0.5 * draw(i)
        before = clean
    return x


def unipc(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """UniPC-2 (bh2), Zhao et al. 2023: a predictor like :func:`dpm_solver`'s and a corrector that costs no evaluation.

    The corrector mends x by what the network says at the predicted place, before the next step is taken from there.
    """
    before: Tensor | None = None  # clean at the step before
    start, base, order, slope = x, x, 1, torch.zeros(())  # of the last prediction, for its correction
    for i in range(path.steps):
        clean = denoise(x, i).clean
        if before is not None:
            x = base - path.alpha[i] * _correction(path, i, order, slope, clean - before)
        if i + 1 == path.steps:
            return clean
        h = _lambda(path, i + 1) - _lambda(path, i)
        start, grown = x, math.expm1(-h)
        base = path.sigma[i + 1] / path.sigma[i] * start - path.alpha[i + 1] * grown * clean
        x, order = base, 1
        if before is not None:
            order = 2
            slope = (before - clean) * (h / (_lambda(path, i - 1) - _lambda(path, i)))
            x = base - path.alpha[i + 1] * grown * 0.5 * slope
        before = clean
    return x


def heun(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """Heun's method along the straight flow's time σ/(α + σ): second order, two evaluations a step but the last."""
    for i in range(path.steps):
        here, there = path.alpha[i] + path.sigma[i], path.alpha[i + 1] + path.sigma[i + 1]
        dt = path.sigma[i + 1] / there - path.sigma[i] / here
        clean, noise = denoise(x, i)
        velocity = noise - clean
        x, y = there * (x / here + dt * velocity), x / here
        if i + 1 < path.steps:
            clean, noise = denoise(x, i + 1)
            x = there * (y + dt * (velocity + noise - clean) / 2)
    return x


def consistency(x: Tensor, path: NoisePath, denoise: Denoise, draw: Draw) -> Tensor:
    """Multistep consistency sampling, Song et al. 2023: leap to clean, noise again, and so on. For a student."""
    for i in range(path.steps):
        clean = denoise(x, i).clean
        x = clean if i + 1 == path.steps else path.alpha[i + 1] * clean + path.sigma[i + 1] * draw(i)
    return x


def _lambda(path: NoisePath, i: int) -> float:
    # A flow begins at α = 0, where λ has no end: a hundred below any λ that matters stands for it.
    return math.log(max(path.alpha[i], 1e-12) / path.sigma[i])


def _correction(path: NoisePath, i: int, order: int, slope: Tensor, change: Tensor) -> Tensor:
    """UniC's terms for the step that led to ``i``: the solution of its 1x1 or 2x2 order conditions, times B(h)."""
    h = _lambda(path, i) - _lambda(path, i - 1)
    grown = math.expm1(-h)
    if order == 1:
        return grown * 0.5 * change
    ratio = (_lambda(path, i - 2) - _lambda(path, i - 1)) / h
    first = grown / -h - 1
    second = first / -h - 0.5
    rhs = np.array([first / grown, second * 2 / grown])
    one, two = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), rhs)
    return grown * (float(one) * slope + float(two) * change)


@dataclass(frozen=True)
class SolverChoice:
    """A solver and how its timesteps lie."""

    solve: Solver
    even_flow: bool = False


SOLVERS: dict[str, SolverChoice] = {
    "ddim": SolverChoice(ddim),
    "ddpm": SolverChoice(ddpm),
    "dpm++": SolverChoice(dpm_solver),
    "sde-dpm++": SolverChoice(sde_dpm_solver),
    "unipc": SolverChoice(unipc),
    "euler": SolverChoice(ddim, even_flow=True),  # flow Euler: see ddim
    "heun": SolverChoice(heun, even_flow=True),
    "student": SolverChoice(consistency),  # needs a distilled network
}


def get_solver(name: str) -> SolverChoice:
    """The solver of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SOLVERS:
        raise ConfigError("generator.scheduler is unknown", expected=f"one of {', '.join(SOLVERS)}", got=name)
    return SOLVERS[name]


def evaluations(name: str, steps: int) -> int:
    """How often a solver calls the network."""
    return 2 * steps - 1 if name == "heun" else steps
