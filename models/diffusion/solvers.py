"""Sampling: solvers, free functions over any noise schedule, and from per-subject noise to images by one of them.

Every solver is a plain loop over numbers known beforehand. diffusers' schedulers look up timesteps on the device at
every step, keep state between calls and take noise from one generator: the first stalls the device, the last gives no
subject its own noise. The tests compare each solver with diffusers' scheduler of the same name.

Notation: see :mod:`models.diffusion.schedules`; λ = log(α/σ).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import (
    SampleSchedule,
    Spacing,
    X0Eps,
    make_sample_schedule,
    to_x0_eps,
)
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.noise import subject_noise

Denoise = Callable[[Tensor, int], X0Eps]  # (x, index in the schedule) → its parts
StepNoise = Callable[[int], Tensor]  # new standard normal noise of one step
Solve = Callable[[Tensor, SampleSchedule, Denoise, StepNoise], Tensor]


def ddim(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise) -> Tensor:
    """Song et al. 2021, deterministic; first order. The Euler method in every coordinate that scales x."""
    for i in range(schedule.steps):
        x0, eps = denoise(x, i)
        x = schedule.alpha[i + 1] * x0 + schedule.sigma[i + 1] * eps
    return x


def ddpm(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise) -> Tensor:
    """Ho et al. 2020, the original's: ancestral sampling with the posterior's variance."""
    for i in range(schedule.steps):
        x0, eps = denoise(x, i)
        a, s, a1, s1 = schedule.alpha[i], schedule.sigma[i], schedule.alpha[i + 1], schedule.sigma[i + 1]
        added = s1 / s * math.sqrt(max(s**2 - (a / a1 * s1) ** 2, 0.0))  # standard deviation of the new noise
        x = a1 * x0 + math.sqrt(max(s1**2 - added**2, 0.0)) * eps
        if added:
            x = x + added * step_noise(i)
    return x


def dpm_2m(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise, sde: bool = False) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022: second order, one evaluation per step; first order at both ends.

    With ``sde``, SDE-DPM-Solver++(2M): the same for the reverse *stochastic* equation. Noise of every step replaces
    errors of earlier steps, as in :func:`ddpm`, whose few-step form this is.
    """
    previous: Tensor | None = None
    for i in range(schedule.steps):
        x0 = denoise(x, i).x0
        if i + 1 == schedule.steps:
            return x0
        h = _lambda(schedule, i + 1) - _lambda(schedule, i)
        direction = x0
        if previous is not None:
            direction = x0 + (x0 - previous) * (h / (_lambda(schedule, i) - _lambda(schedule, i - 1)) / 2)
        alpha, sigma = schedule.alpha[i + 1], schedule.sigma[i + 1]
        if sde:
            variance = -math.expm1(-2 * h)  # fraction of σ² that is new noise
            decayed = sigma / schedule.sigma[i] * math.exp(-h) * x
            x = decayed + alpha * variance * direction + sigma * variance**0.5 * step_noise(i)
        else:
            x = sigma / schedule.sigma[i] * x - alpha * math.expm1(-h) * direction
        previous = x0
    return x


def unipc(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise) -> Tensor:
    """UniPC-2 (bh2), Zhao et al. 2023: a predictor like :func:`dpm_2m`'s and a corrector without extra evaluations.

    The corrector improves x by the network's answer at the predicted x, before the next step starts there.
    """
    previous: Tensor | None = None  # x0 of the step before
    start, base, order, slope = x, x, 1, torch.zeros(())  # of the last prediction, for its correction
    for i in range(schedule.steps):
        x0 = denoise(x, i).x0
        if previous is not None:
            x = base - schedule.alpha[i] * _correction(schedule, i, order, slope, x0 - previous)
        if i + 1 == schedule.steps:
            return x0
        h = _lambda(schedule, i + 1) - _lambda(schedule, i)
        start, phi = x, math.expm1(-h)
        base = schedule.sigma[i + 1] / schedule.sigma[i] * start - schedule.alpha[i + 1] * phi * x0
        x, order = base, 1
        if previous is not None:
            order = 2
            slope = (previous - x0) * (h / (_lambda(schedule, i - 1) - _lambda(schedule, i)))
            x = base - schedule.alpha[i + 1] * phi * 0.5 * slope
        previous = x0
    return x


def heun(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise) -> Tensor:
    """Heun's method in the straight flow's time σ/(α + σ): second order, two evaluations per step but the last."""
    for i in range(schedule.steps):
        scale, next_scale = schedule.alpha[i] + schedule.sigma[i], schedule.alpha[i + 1] + schedule.sigma[i + 1]
        dt = schedule.sigma[i + 1] / next_scale - schedule.sigma[i] / scale
        x0, eps = denoise(x, i)
        velocity = eps - x0
        x, y = next_scale * (x / scale + dt * velocity), x / scale
        if i + 1 < schedule.steps:
            x0, eps = denoise(x, i + 1)
            x = next_scale * (y + dt * (velocity + eps - x0) / 2)
    return x


def whitened(
    x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise, centred: bool = False
) -> Tensor:
    """Adams-Bashforth in a coordinate of variance 1 throughout: exact for independent Gaussian entries, in any steps.

    An entry of standard deviation k has, in a noisy tensor, the deviation d with d² = α²k² + σ². Its whitened value
    u = x/d turns from noise into x0/k as the angle θ = atan2(σ, α·k) falls from π/2 to 0, with
    du/dθ = (α·k·eps - σ·x0/k)/d, which is 0 for a Gaussian. The other solvers hold x0 or eps constant during a step,
    which takes away variance: of details at 128x128, 8 steps of :func:`dpm_2m` leave 29 to 59 % of the energy that
    scans have, 32 steps 58 to 78 %, and 8 of these 50 to 80 %. DPM-Solver-v3 (Zheng et al. 2023, arXiv 2310.13268)
    measures such coefficients from data.

    ``centred``: x0 has mean 0 whatever z is. Pure noise tells nothing of it, so that the first slope is 0 and needs no
    evaluation.
    """
    previous: tuple[Tensor, Tensor] | None = None  # slope and change of the angle of the step before
    alpha, sigma, deviation = schedule.alpha, schedule.sigma, schedule.deviation
    for i in range(schedule.steps):
        norm = _norm(alpha[i], sigma[i], deviation)
        if centred and i == 0:
            slope = torch.zeros_like(x)
        else:
            x0, eps = denoise(x, i)
            slope = (alpha[i] * deviation * eps - sigma[i] * x0 / deviation) / norm
        # θ[i + 1] - θ[i], without the loss of digits that the difference of two angles near π/2 has
        turned = (sigma[i + 1] * alpha[i] - sigma[i] * alpha[i + 1]) * deviation
        change = torch.atan2(turned, alpha[i] * alpha[i + 1] * deviation.square() + sigma[i] * sigma[i + 1])
        mean_slope = slope
        if previous is not None:
            mean_slope = slope + (slope - previous[0]) * (change / previous[1] / 2)
        x = (x / norm + change * mean_slope) * _norm(alpha[i + 1], sigma[i + 1], deviation)
        previous = slope, change
    return x


def consistency(x: Tensor, schedule: SampleSchedule, denoise: Denoise, step_noise: StepNoise) -> Tensor:
    """Multistep consistency sampling, Song et al. 2023, for a distilled network: predict x0, add new noise, repeat."""
    for i in range(schedule.steps):
        x0 = denoise(x, i).x0
        last = i + 1 == schedule.steps
        x = x0 if last else schedule.alpha[i + 1] * x0 + schedule.sigma[i + 1] * step_noise(i)
    return x


def _lambda(schedule: SampleSchedule, i: int) -> float:
    # A flow starts at α = 0, where λ is infinite; 1e-12 keeps it finite, far below any λ that matters.
    return math.log(max(schedule.alpha[i], 1e-12) / schedule.sigma[i])


def _norm(alpha: float, sigma: float, deviation: Tensor) -> Tensor:
    return ((alpha * deviation).square() + sigma**2).sqrt()


def _correction(schedule: SampleSchedule, i: int, order: int, slope: Tensor, change: Tensor) -> Tensor:
    """UniC's terms for the step that led to ``i``: the solution of its 1x1 or 2x2 order conditions, times B(h)."""
    h = _lambda(schedule, i) - _lambda(schedule, i - 1)
    phi = math.expm1(-h)
    if order == 1:
        return phi * 0.5 * change
    ratio = (_lambda(schedule, i - 2) - _lambda(schedule, i - 1)) / h
    first = phi / -h - 1
    second = first / -h - 0.5
    rhs = np.array([first / phi, second * 2 / phi])
    one, two = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), rhs)
    return phi * (float(one) * slope + float(two) * change)


@dataclass(frozen=True)
class Solver:
    """A numerical method and the spacing of its timesteps."""

    solve: Solve
    spacing: Spacing = "timesteps"


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(ddim),
    "ddpm": Solver(ddpm),
    "dpm++": Solver(dpm_2m),
    "sde-dpm++": Solver(partial(dpm_2m, sde=True)),
    "unipc": Solver(unipc),
    "whitened": Solver(whitened, spacing="log-noise"),
    "centred": Solver(partial(whitened, centred=True), spacing="log-noise"),  # needs x0 of mean 0
    "euler": Solver(ddim, spacing="flow-time"),  # the flow's Euler method, see ddim
    "heun": Solver(heun, spacing="flow-time"),
    "student": Solver(consistency),  # needs a distilled network
}


def get_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ConfigError: no solver has that name.
    """
    if name not in SOLVERS:
        raise ConfigError("generator.scheduler is unknown", expected=f"one of {', '.join(SOLVERS)}", got=name)
    return SOLVERS[name]


def evaluations(name: str, steps: int) -> int:
    """How often a solver evaluates the network."""
    return {"heun": 2 * steps - 1, "centred": steps - 1}.get(name, steps)


@torch.no_grad()
def sample_on_device(model: DiffusionModel, latents: Tensor, seeds: Tensor, *, scheduler: str, steps: int) -> Tensor:
    """Sample one image per latent vector, without waiting for the device.

    Every random number of an image comes from its own seed, so neither the batch nor the number of devices changes it
    (beyond the device's rounding). The network computes in the type of its weights, the solver in float32.

    The model is in evaluation mode. Latents (B, D) float32, seeds (B,) int64 and the images (B, S, S) uint8 are on its
    device. ``scheduler`` is a key of :data:`SOLVERS`.
    """
    solver = get_solver(scheduler)
    schedule = replace(make_sample_schedule(model.schedule, steps, solver.spacing), deviation=model.deviation)
    prediction_type, shape = str(model.schedule["prediction_type"]), model.working_shape
    dtype = next(iter(model.denoiser.parameters()), latents).dtype
    exact = model.context(latents)
    z, context = latents.to(dtype), exact.to(dtype)

    def denoise(x: Tensor, i: int) -> X0Eps:
        timesteps = torch.full((len(x),), schedule.timesteps[i], dtype=torch.int64, device=x.device)
        noisy = x.to(dtype, memory_format=torch.channels_last)
        predicted = model.denoise(model.denoiser, noisy, timesteps, z, context).float()
        return to_x0_eps(predicted, x, schedule.alpha[i], schedule.sigma[i], prediction_type)

    def step_noise(i: int) -> Tensor:
        return subject_noise(seeds, f"image-noise after step {i}", shape)

    working = solver.solve(subject_noise(seeds, "image-noise", shape), schedule, denoise, step_noise)
    return as_grey_levels(model.to_images(working, exact))
