"""Every solver against diffusers' scheduler of that name; images that depend on their own latents and seed alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.schedules import (
    SampleSchedule,
    X0Eps,
    alphas_and_sigmas,
    make_sample_schedule,
    to_x0_eps,
)
from image_longitudinal.models.diffusion.solvers import SOLVERS, Denoise, evaluations, get_solver
from tests.models.conftest import draws
from tests.models.diffusion.conftest import COSINE, FLOW, KnownModel, images_of

STABLE = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "prediction_type": "epsilon",
}  # fmt: skip


def network(x: Tensor, timestep: int) -> Tensor:
    """Stands in for a trained one: smooth in x and t, linear in neither."""
    return torch.tanh(x * (0.4 + timestep / 1500)) + 0.3 * torch.sin(3 * x)


def denoiser(schedule: dict[str, Any], sampled: SampleSchedule) -> Denoise:
    def denoise(x: Tensor, i: int) -> X0Eps:
        prediction = network(x, sampled.timesteps[i])
        return to_x0_eps(prediction, x, sampled.alpha[i], sampled.sigma[i], schedule["prediction_type"])

    return denoise


def noise(i: int) -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(i))


def solve(name: str, schedule: dict[str, Any], steps: int, start: Tensor) -> Tensor:
    solver = get_solver(name)
    sampled = make_sample_schedule(schedule, steps, solver.spacing)
    return solver.solve(start, sampled, denoiser(schedule, sampled), noise)


def theirs(scheduler: Any, steps: int, start: Tensor, **options: Any) -> Tensor:
    scheduler.set_timesteps(steps)
    x = start
    for i, timestep in enumerate(scheduler.timesteps):
        extra = {"variance_noise": noise(i)} if options else {}
        extra |= {"eta": 1.0} if "ddpm" in options else {}
        x = scheduler.step(network(x, int(timestep)), timestep, x, **extra, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 8, 20])  # divisors of 1000: diffusers' DDIM takes equal strides
@pytest.mark.parametrize("schedule", [COSINE, STABLE], ids=["cosine", "stable-diffusion"])
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ddim", DDIMScheduler),
        ("ddpm", DDIMScheduler),  # with η = 1 it is DDPM, and it accepts given noise
        ("dpm++", DPMSolverMultistepScheduler),
        ("sde-dpm++", DPMSolverMultistepScheduler),
        ("unipc", UniPCMultistepScheduler),
    ],
)
def test_a_solver_agrees_with_diffusers(name: str, peer: Any, schedule: dict[str, Any], steps: int) -> None:
    """float32 rounding, grown over twenty steps and by the division by a small α, stays below 1e-3 of the values."""
    options: dict[str, Any] = {"clip_sample": False} if peer is DDIMScheduler else {}
    options |= {"algorithm_type": "sde-dpmsolver++"} if name == "sde-dpm++" else {}
    scheduler = peer.from_config({**schedule, "timestep_spacing": "trailing", **options})
    start = noise(99)
    expected = theirs(scheduler, steps, start, **({name: True} if name in ("ddpm", "sde-dpm++") else {}))
    x0 = solve(name, schedule, steps, start)
    assert make_sample_schedule(schedule, steps).timesteps == tuple(int(t) for t in scheduler.timesteps)
    torch.testing.assert_close(x0, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_euler_agrees_with_diffusers_on_a_flow() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x = start = noise(99)
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, int(timestep) - 1), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(solve("euler", FLOW, 4, start), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm++", 2), ("unipc", 2), ("heun", 2), ("whitened", 2)])
def test_solvers_have_the_documented_order(name: str, order: int) -> None:
    """Twice the steps: an error 2^order times smaller, for a velocity known in closed form (data N(0.3, 0.5²))."""

    def error(steps: int) -> float:
        solver = get_solver(name)
        sampled = make_sample_schedule(FLOW, steps)

        def denoise(x: Tensor, i: int) -> X0Eps:
            a, s = sampled.alpha[i], sampled.sigma[i]
            clean = 0.3 + a * 0.25 / (a * a * 0.25 + s * s) * (x - a * 0.3)
            return X0Eps(clean, (x - a * clean) / s)

        start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
        x0 = solver.solve(start, sampled, denoise, lambda i: torch.zeros(()))
        return float((x0 - (0.3 + 0.5 * start)).abs().max())

    assert error(100) < 2e-2
    assert error(50) / error(100) > 0.75 * 2**order


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_evaluates_the_network_as_often_as_documented_and_an_unknown_one_is_refused(name: str) -> None:
    calls = []

    def denoise(x: Tensor, i: int) -> X0Eps:
        calls.append(i)
        return X0Eps(x, x)

    get_solver(name).solve(noise(0), make_sample_schedule(COSINE, 5), denoise, noise)
    assert len(calls) == evaluations(name, 5)
    with pytest.raises(ConfigError, match=r"generator\.scheduler .*one of ddim, ddpm, .*; got plms"):
        get_solver("plms")


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_every_scheduler_makes_images_that_its_seeds_decide(residual: ResidualDiffusion, scheduler: str) -> None:
    z, seeds = draws(3, 5)
    before = torch.random.get_rng_state()
    made = images_of(residual, z, seeds, scheduler)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers are not used up"
    torch.rand(1)
    assert (made.shape, made.dtype) == ((3, 32, 32), np.uint8)
    assert np.ptp(made) > 0
    np.testing.assert_array_equal(images_of(residual, z, seeds, scheduler), made)
    other_seed, other_z = images_of(residual, z, seeds + 1, scheduler), images_of(residual, z + 1, seeds, scheduler)
    assert (other_seed != made).any(axis=(1, 2)).all()
    assert (other_z != made).any(axis=(1, 2)).all()


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_an_image_does_not_depend_on_the_rest_of_its_batch(residual: ResidualDiffusion, scheduler: str) -> None:
    """Bit for bit at any place in a batch of one size; within a grey level in batches of another."""
    z, seeds = draws(6, 5)
    whole = images_of(residual, z, seeds, scheduler).astype(int)
    order = np.array([4, 0, 5, 1, 3, 2])
    np.testing.assert_array_equal(images_of(residual, z[order], seeds[order], scheduler), whole[order])
    twins = np.array([2, 2, 2, 0, 0, 2])
    np.testing.assert_array_equal(images_of(residual, z[twins], seeds[twins], scheduler), whole[twins])
    for rows in ([3], [1, 4], [5, 0, 2]):
        assert np.abs(images_of(residual, z[rows], seeds[rows], scheduler) - whole[rows]).max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 8, 400])
def test_whitened_steps_keep_the_spread_of_gaussian_entries_exactly(steps: int) -> None:
    """Entries N(0, k²) of very different k: k times their noise, in any number of steps; dpm++ loses a third."""
    deviation = torch.tensor([0.001, 0.3, 1.0, 6.0], dtype=torch.float32)
    start = torch.linspace(-2, 2, 9)[:, None].expand(9, 4)

    def solved(name: str) -> Tensor:
        solver = get_solver(name)
        sampled = replace(make_sample_schedule(COSINE, steps, solver.spacing), deviation=deviation)

        def denoise(x: Tensor, i: int) -> X0Eps:
            a, s = sampled.alpha[i], sampled.sigma[i]
            clean = a * deviation**2 / (a * a * deviation**2 + s * s) * x
            return X0Eps(clean, (x - a * clean) / s)

        return solver.solve(start, sampled, denoise, lambda i: torch.zeros(()))

    # The noisiest timestep of training is not quite noise: its signal is 5e-5 of it.
    for name in ("whitened", "centred"):
        torch.testing.assert_close(solved(name), deviation * start, rtol=1e-3, atol=1e-9)
    assert solved("dpm++")[:, 0].abs().max() < 0.7 * deviation[0] * 2


class Gaussian(KnownModel):
    """The exact denoiser of data N(z, 0.2²): what sampling should give is known."""

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        alpha = torch.from_numpy(alphas_and_sigmas(COSINE)[0]).square().float()[timesteps].reshape(-1, 1, 1, 1)
        mean = z.reshape(-1, 1, 1, 1)
        gain = alpha.sqrt() * 0.04 / (alpha * 0.04 + 1 - alpha)
        clean = mean + gain * (noisy - alpha.sqrt() * mean)
        noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


OTHER_MODELS = ("student", "centred")  # wants a distilled network; data of mean 0


@pytest.mark.parametrize("scheduler", [name for name in SOLVERS if name not in OTHER_MODELS])
def test_sampling_gives_the_distribution_that_was_modelled(scheduler: str) -> None:
    """N(0.5, 0.2²) in 32,000 pixels: mean within 0.01, standard deviation within 0.03 (50 steps are few)."""
    z = np.full((2000, 1), 0.5, np.float32)
    made = images_of(Gaussian(COSINE, nn.Identity()), z, np.arange(2000), scheduler, 50) / 255
    assert made.mean() == pytest.approx(0.5, abs=0.01)
    assert made.std() == pytest.approx(0.2, abs=0.03)
