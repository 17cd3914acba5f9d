"""Sampling: every scheduler, and images that depend on their own latents and seed alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.diffusion.sampler import sample
from image_longitudinal.models.diffusion.schedules import alphas_and_sigmas
from image_longitudinal.models.diffusion.solvers import SOLVERS
from tests.models.conftest import draws

COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


def images(model: DiffusionModel, z: np.ndarray, seeds: np.ndarray, scheduler: str = "ddim", steps: int = 4) -> Any:
    return sample(model, torch.from_numpy(z), seeds, scheduler=scheduler, steps=steps)


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_every_scheduler_makes_images_that_its_seeds_decide(residual: ResidualDiffusion, scheduler: str) -> None:
    z, seeds = draws(3, 5)
    made = images(residual, z, seeds, scheduler)
    assert made.shape == (3, 32, 32)
    assert made.dtype == np.uint8
    assert np.ptp(made) > 0
    np.testing.assert_array_equal(images(residual, z, seeds, scheduler), made)
    other_seed, other_z = images(residual, z, seeds + 1, scheduler), images(residual, z + 1, seeds, scheduler)
    assert (other_seed != made).any(axis=(1, 2)).all()
    assert (other_z != made).any(axis=(1, 2)).all()


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_an_image_does_not_depend_on_the_rest_of_its_batch(residual: ResidualDiffusion, scheduler: str) -> None:
    """Bit for bit at any place in a batch of one size; within a grey level in batches of another."""
    z, seeds = draws(6, 5)
    whole = images(residual, z, seeds, scheduler).astype(int)
    order = np.array([4, 0, 5, 1, 3, 2])
    np.testing.assert_array_equal(images(residual, z[order], seeds[order], scheduler), whole[order])
    twins = np.array([2, 2, 2, 0, 0, 2])
    np.testing.assert_array_equal(images(residual, z[twins], seeds[twins], scheduler), whole[twins])
    for rows in ([3], [1, 4], [5, 0, 2]):
        assert np.abs(images(residual, z[rows], seeds[rows], scheduler) - whole[rows]).max() <= 1


def test_the_callers_random_numbers_are_neither_used_nor_used_up(residual: ResidualDiffusion) -> None:
    z, seeds = draws(2, 5)
    for scheduler in SOLVERS:
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        first = images(residual, z, seeds, scheduler)
        assert torch.equal(torch.rand(1), expected)
        np.testing.assert_array_equal(images(residual, z, seeds, scheduler), first)


class Gaussian(DiffusionModel):
    """The exact denoiser of data N(z, 0.2²): what sampling should give is known."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.working_shape = 4, 1, (1, 4, 4)
        self.schedule, self.denoiser = COSINE, nn.Identity()
        self.alphas = torch.from_numpy(alphas_and_sigmas(COSINE)[0]).square().float()

    def context(self, latents: Tensor) -> Tensor:
        return latents

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        return images

    def to_images(self, working: Tensor, latents: Tensor) -> Tensor:
        return working

    def rotate(self, axes: torch.Tensor) -> None:
        raise AssertionError("nothing here rotates axes")

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        alpha = self.alphas[timesteps].reshape(-1, 1, 1, 1)
        mean = latents.reshape(-1, 1, 1, 1)
        gain = alpha.sqrt() * 0.04 / (alpha * 0.04 + 1 - alpha)
        clean = mean + gain * (noisy - alpha.sqrt() * mean)
        noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


@pytest.mark.parametrize("scheduler", [name for name in SOLVERS if name != "student"])  # that wants another network
def test_sampling_gives_the_distribution_that_was_modelled(scheduler: str) -> None:
    """N(0.5, 0.2²) in 32,000 pixels: mean within 0.01, standard deviation within 0.03 (50 steps are few)."""
    z = np.full((2000, 1), 0.5, np.float32)
    made = images(Gaussian(), z, np.arange(2000), scheduler, 50) / 255
    assert made.mean() == pytest.approx(0.5, abs=0.01)
    assert made.std() == pytest.approx(0.2, abs=0.03)
