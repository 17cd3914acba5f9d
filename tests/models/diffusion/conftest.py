"""A tiny residual diffusion model."""

import pytest
import torch

from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import random_denoiser


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
