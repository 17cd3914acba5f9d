"""A tiny residual diffusion model, and a base for models whose denoiser is known in closed form."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import random_denoiser

COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
FLOW = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction"}


class KnownModel(DiffusionModel):
    """Works on images themselves, 4x4 pixels, given one number z; subclasses define ``denoise``."""

    def __init__(self, schedule: dict[str, Any], denoiser: nn.Module) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.working_shape = 4, 1, (1, 4, 4)
        self.schedule, self.denoiser = schedule, denoiser

    def context(self, latents: Tensor) -> Tensor:
        return latents

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        return images

    def to_images(self, working: Tensor, context: Tensor) -> Tensor:
        return working

    def rotate(self, axes: Tensor) -> None:
        raise AssertionError("nothing here rotates axes")


def images_of(model: DiffusionModel, z: np.ndarray, seeds: np.ndarray, scheduler: str = "ddim", steps: int = 4) -> Any:
    """Sampled images uint8 (B, S, S) in host memory."""
    return sample_on_device(
        model, torch.from_numpy(z), torch.from_numpy(np.asarray(seeds)), scheduler=scheduler, steps=steps
    ).numpy()


def assert_rotation_keeps_predictions(model: DiffusionModel, vae: VAE | None) -> None:
    """z in new axes, given to the rotated networks, is z in the old ones: equal up to float32 rounding."""
    axes = torch.linalg.qr(torch.randn(5, 5)).Q
    noisy, times, z = torch.randn(2, *model.working_shape), torch.tensor([3, 700]), torch.randn(2, 5)

    def predict(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return model.denoise(model.denoiser, noisy, times, latents, model.context(latents))

    before, not_rotated = predict(z), predict(z @ axes)
    if vae is not None:
        vae.rotate(axes)
    model.rotate(axes)
    torch.testing.assert_close(predict(z @ axes), before, atol=1e-4, rtol=1e-4)
    assert (not_rotated - before).abs().max() > 1e-3


@pytest.fixture
def tiny_vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(32, 5, 1 / 64)
    vae.transform.copy_(torch.randn(5, 5))
    return vae.eval()


@pytest.fixture
def residual(tiny_vae: VAE) -> ResidualDiffusion:
    """32 pixels, weights random everywhere."""
    return random_denoiser(ResidualDiffusion(tiny_vae, 32, (16, 16), residual_scale=0.1)).eval()
