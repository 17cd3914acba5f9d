"""The light decoder: replaces the full one, and learns to imitate it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.light_decoder import build_light_decoder, train_light_decoder
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.grey_images import to_unit

CONFIG = DistillationConfig(decoder_steps=40, decoder_width=16, batch_size=8, learning_rate=3e-3, ema_decay=0.5)


@pytest.fixture
def model(pretrained: Path) -> StableDiffusion:
    return StableDiffusion(str(pretrained), 5, 32).eval()


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
def test_training_brings_it_nearer_to_the_full_decoder(
    model: StableDiffusion, tiny_images: np.ndarray, tmp_path: Path
) -> None:
    unseen = to_unit(tiny_images[-16:], "cpu")
    working = model.to_working(unseen, torch.empty(0))
    full = model.to_images(working, torch.empty(0))
    with torch.enable_grad():
        decoder, history = train_light_decoder(model, tiny_images[:-16], CONFIG, 1, tmp_path / "checkpoint", "cpu")
    untrained = build_light_decoder(model, CONFIG.decoder_width, 1)
    assert torch.equal(model.to_images(working, torch.empty(0)), full), "the teacher stays as it is"

    def error(network: torch.nn.Module) -> float:
        model.light = network
        return float((model.to_images(working, torch.empty(0)) - full).square().mean())

    assert error(decoder) < 0.3 * error(untrained)
    assert history[-1]["loss"] < history[0]["loss"]


@torch.no_grad()
def test_it_replaces_the_full_decoder_in_any_precision(model: StableDiffusion) -> None:
    model.light = build_light_decoder(model, 16, 1)
    working = torch.randn(2, *model.working_shape)
    before = model.to_images(working, torch.empty(0))
    assert before.shape == (2, 1, 32, 32)
    assert 0 <= before.min() <= before.max() <= 1
    model.for_sampling(torch.bfloat16)
    assert next(model.light.parameters()).dtype == torch.bfloat16
    after = model.to_images(working, torch.empty(0))
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, atol=0.05, rtol=0)  # eight bits, through seven convolutions


def test_its_first_weights_depend_on_the_seed_alone(model: StableDiffusion) -> None:
    one, same, other = (build_light_decoder(model, 16, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
