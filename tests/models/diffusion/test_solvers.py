"""Every solver against diffusers' scheduler of that name, and against the distribution it should draw from."""

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
from torch import Tensor

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.diffusion.schedules import (
    SampleSchedule,
    X0Eps,
    alphas_and_sigmas,
    make_sample_schedule,
    to_x0_eps,
)
from image_longitudinal.models.diffusion.solvers import SOLVERS, Denoise, evaluations, get_solver

COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
STABLE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
}
FLOW = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction"}


def network(x: Tensor, timestep: int) -> Tensor:
    """Stands in for a trained one: smooth in x and t, linear in neither."""
    return torch.tanh(x * (0.4 + timestep / 1500)) + 0.3 * torch.sin(3 * x)


def denoiser(schedule: dict[str, Any], path: SampleSchedule) -> Denoise:
    def denoise(x: Tensor, i: int) -> X0Eps:
        return to_x0_eps(network(x, path.timesteps[i]), x, path.alpha[i], path.sigma[i], schedule["prediction_type"])

    return denoise


def fresh(i: int) -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(i))


def solve(name: str, schedule: dict[str, Any], steps: int, start: Tensor) -> Tensor:
    choice = get_solver(name)
    path = make_sample_schedule(schedule, steps, uniform_flow_time=choice.uniform_flow_time)
    return choice.solve(start, path, denoiser(schedule, path), fresh)


def theirs(scheduler: Any, steps: int, start: Tensor, **options: Any) -> Tensor:
    scheduler.set_timesteps(steps)
    x = start
    for i, timestep in enumerate(scheduler.timesteps):
        extra = {"variance_noise": fresh(i)} if options else {}
        extra |= {"eta": 1.0} if "ddpm" in options else {}
        x = scheduler.step(network(x, int(timestep)), timestep, x, **extra, return_dict=False)[0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 8, 20])  # divisors of 1000: diffusers' DDIM takes equal strides
@pytest.mark.parametrize("schedule", [COSINE, STABLE], ids=["cosine", "stable-diffusion"])
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ddim", DDIMScheduler),
        ("ddpm", DDIMScheduler),  # with η = 1 it is DDPM, and it takes noise that is drawn elsewhere
        ("dpm++", DPMSolverMultistepScheduler),
        ("sde-dpm++", DPMSolverMultistepScheduler),
        ("unipc", UniPCMultistepScheduler),
    ],
)
def test_a_solver_goes_where_diffusers_goes(name: str, peer: Any, schedule: dict[str, Any], steps: int) -> None:
    """float32 rounding, grown over twenty steps and by the division by a small α, stays below 1e-3 of the values."""
    options: dict[str, Any] = {"clip_sample": False} if peer is DDIMScheduler else {}
    options |= {"algorithm_type": "sde-dpmsolver++"} if name == "sde-dpm++" else {}
    scheduler = peer.from_config({**schedule, "timestep_spacing": "trailing", **options})
    start = fresh(99)
    expected = theirs(scheduler, steps, start, **({name: True} if name in ("ddpm", "sde-dpm++") else {}))
    made = solve(name, schedule, steps, start)
    assert make_sample_schedule(schedule, steps).timesteps == tuple(int(t) for t in scheduler.timesteps)
    torch.testing.assert_close(made, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_along_a_flow_euler_goes_where_diffusers_goes() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    x = start = fresh(99)
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, int(timestep) - 1), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(solve("euler", FLOW, 4, start), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm++", 2), ("unipc", 2), ("heun", 2)])
def test_the_order_of_a_solver_is_what_it_says(name: str, order: int) -> None:
    """Twice the steps: an error 2^order times smaller, for a velocity known in closed form (data N(0.3, 0.5²))."""

    def error(steps: int) -> float:
        choice = get_solver(name)
        path = make_sample_schedule(FLOW, steps)

        def denoise(x: Tensor, i: int) -> X0Eps:
            a, s = path.alpha[i], path.sigma[i]
            clean = 0.3 + a * 0.25 / (a * a * 0.25 + s * s) * (x - a * 0.3)
            return X0Eps(clean, (x - a * clean) / s)

        start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
        made = choice.solve(start, path, denoise, lambda i: torch.zeros(()))
        return float((made - (0.3 + 0.5 * start)).abs().max())

    assert error(100) < 2e-2
    assert error(50) / error(100) > 0.75 * 2**order


@pytest.mark.parametrize("schedule", [COSINE, STABLE, FLOW], ids=["cosine", "stable-diffusion", "flow"])
@pytest.mark.parametrize("uniform_flow_time", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 999, 1000])
def test_a_path_begins_at_the_noisiest_timestep_and_never_stays(
    schedule: dict[str, Any], uniform_flow_time: bool, steps: int
) -> None:
    path = make_sample_schedule(schedule, steps, uniform_flow_time=uniform_flow_time)
    assert path.steps == steps == len(path.alpha) - 1 == len(path.sigma) - 1
    assert path.timesteps[0] == 999
    assert list(path.timesteps) == sorted(set(path.timesteps), reverse=True)
    assert path.timesteps[-1] >= 0
    assert (path.alpha[-1], path.sigma[-1]) == (1, 0)
    assert all(a < b for a, b in zip(path.alpha, path.alpha[1:], strict=False))


@pytest.mark.parametrize("schedule", [COSINE, STABLE, FLOW], ids=["v", "epsilon", "flow"])
def test_splitting_a_true_prediction_gives_back_what_was_mixed(schedule: dict[str, Any]) -> None:
    alpha, sigma = (float(values[400]) for values in alphas_and_sigmas(schedule))
    clean, noise = fresh(1), fresh(2)
    kind = schedule["prediction_type"]
    said = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "flow_prediction": noise - clean}[kind]
    parts = to_x0_eps(said, alpha * clean + sigma * noise, alpha, sigma, kind)
    torch.testing.assert_close(parts.x0, clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.eps, noise, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_calls_the_network_as_often_as_is_said(name: str) -> None:
    calls = []
    path = make_sample_schedule(COSINE, 5)

    def denoise(x: Tensor, i: int) -> X0Eps:
        calls.append(i)
        return X0Eps(x, x)

    get_solver(name).solve(fresh(0), path, denoise, fresh)
    assert len(calls) == evaluations(name, 5)


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"generator\.scheduler .*one of ddim, ddpm, .*; got plms"):
        get_solver("plms")


def test_more_steps_than_were_trained_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 1000; got 1001"):
        make_sample_schedule(COSINE, 1001)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected epsilon, v_prediction or flow_prediction; got score"):
        to_x0_eps(fresh(0), fresh(1), 0.5, 0.5, "score")


def test_alphas_and_sigmas_are_the_training_schedules() -> None:
    alpha, sigma = alphas_and_sigmas(STABLE)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-12)
    reference = DDIMScheduler(**STABLE).alphas_cumprod.numpy()
    np.testing.assert_allclose(alpha**2, reference, atol=1e-7)
