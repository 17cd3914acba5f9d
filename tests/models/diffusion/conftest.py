"""A tiny residual diffusion model, and Stable Diffusion's parts in a folder of diffusers' layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from models.diffusion.residual import ResidualDiffusion
from models.vae.network import VAE
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


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: 24 entries per token, an autoencoder that halves twice, the original's noise schedule."""
    folder = tmp_path_factory.mktemp("stable-diffusion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        )
    unet.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / "vae")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder
