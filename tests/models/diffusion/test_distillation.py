"""Distillation: the student's loss in cases with a known answer, its training, and the light decoder."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.distillation import (
    build_light_decoder,
    consistency_loss,
    train_light_decoder,
    train_student,
)
from image_longitudinal.models.diffusion.schedules import make_sample_schedule, to_x0_eps
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training import loop
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import assert_same_weights
from tests.models.diffusion.conftest import FLOW, KnownModel
from tests.models.vae.test_train import Failing, Interrupted

STUDENT = DistillationConfig(student_steps=6, teacher_steps=4, batch_size=4, learning_rate=1e-3, ema_decay=0.5)
LIGHT = DistillationConfig(decoder_steps=40, decoder_width=16, batch_size=8, learning_rate=3e-3, ema_decay=0.5)


class Point(nn.Module):
    """Predicts the flow to one clean value from anywhere: the teacher of data that are all alike, and exact."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return (x - self.value) / ((timesteps + 1) / 1000)[:, None, None, None]


class PointModel(KnownModel):
    """A flow between noise and images of one grey level."""

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        return network(noisy, timesteps)


def loss_of(student: nn.Module) -> Tensor:
    model, working = PointModel(FLOW, Point(0.3)), torch.full((64, 1, 4, 4), 0.3)
    schedule, generator = make_sample_schedule(FLOW, 4), step_generator(1, "t", 0)
    return consistency_loss(model, student, model.denoiser, schedule, working, torch.zeros(64, 1), generator)


def test_a_student_that_predicts_the_truth_has_no_loss() -> None:
    """1e-3 is float32 rounding, as large as the division by small noise levels makes it."""
    assert float(loss_of(Point(0.3)).detach()) == pytest.approx(0, abs=1e-3)


def test_a_student_that_agrees_only_with_itself_is_corrected_by_the_teacher_at_the_last_timestep() -> None:
    """Its answers are all 0.9, so only the quarter of examples at the last of four timesteps is off: by 0.6 x 4."""
    student = Point(0.9)
    loss = loss_of(student)
    assert 0.15 * 2.4 < float(loss.detach()) < 0.35 * 2.4
    loss.backward()
    assert student.value.grad is not None
    assert student.value.grad > 0, "descent leads towards 0.3"


def test_a_killed_and_resumed_distillation_ends_in_the_same_bits_and_leaves_the_teacher_alone(
    residual: ResidualDiffusion, tiny_vae: VAE, tiny_images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distil(images: ImageRows, name: str) -> tuple[nn.Module, History]:
        return train_student(residual, tiny_vae, images, STUDENT, 1, tmp_path / name, "cpu")

    before = copy.deepcopy(residual.denoiser)
    whole, history = distil(tiny_images, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        with pytest.raises(Interrupted):
            distil(Failing(tiny_images, 3), "killed")
    assert load_tensors(tmp_path / "killed")[1]["step"] == "3"
    resumed, resumed_history = distil(tiny_images, "killed")
    assert resumed_history == history
    assert_same_weights(resumed, whole)
    assert_same_weights(residual.denoiser, before)
    assert any(not torch.equal(value, before.state_dict()[key]) for key, value in whole.state_dict().items())


class TwoPoints(KnownModel):
    """Data are -0.5 or 0.5: from noise, the exact denoiser predicts their mean, 0; a trajectory ends at either."""

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        sigma = ((timesteps + 1) / 1000)[:, None, None, None]
        if network is not self.denoiser:
            return network(torch.cat([noisy, sigma], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        clean = 0.5 * torch.tanh(0.5 * (1 - sigma) * noisy / sigma**2)
        return (noisy - clean) / sigma


def test_a_student_learns_the_ends_of_its_teachers_trajectories() -> None:
    model, schedule = TwoPoints(FLOW, Point(0.0)), make_sample_schedule(FLOW, 8)
    student = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    for step in range(800):
        generator = step_generator(1, "two points", step)
        working = torch.randint(0, 2, (256, 1, 1, 1), generator=generator) - 0.5
        loss = consistency_loss(model, student, model.denoiser, schedule, working, torch.zeros(256, 1), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    noise = torch.linspace(-2, 2, 40).reshape(-1, 1, 1, 1)
    noise = noise[noise[:, 0, 0, 0].abs() > 0.3]  # in between, the ends jump: too steep for a small network

    def one_step(network: nn.Module) -> Tensor:
        predicted = model.denoise(network, noise, torch.full((len(noise),), 999), noise, noise)
        return to_x0_eps(predicted, noise, 0.0, 1.0, "flow_prediction").x0.detach()

    assert one_step(model.denoiser).abs().max() < 0.01
    assert (one_step(student) - 0.5 * noise.sign()).abs().mean() < 0.25  # the teacher is off by 0.5


@pytest.fixture
def model(pretrained: Path) -> StableDiffusion:
    return StableDiffusion(str(pretrained), 5, 32).eval()


@torch.no_grad()
def test_training_brings_the_light_decoder_nearer_to_the_full_one(
    model: StableDiffusion, tiny_images: np.ndarray, tmp_path: Path
) -> None:
    unseen = to_unit(tiny_images[-16:], "cpu")
    working = model.to_working(unseen, torch.empty(0))
    full = model.to_images(working, torch.empty(0))
    with torch.enable_grad():
        decoder, history = train_light_decoder(model, tiny_images[:-16], LIGHT, 1, tmp_path / "checkpoint", "cpu")
    untrained = build_light_decoder(model, LIGHT.decoder_width, 1)
    assert torch.equal(model.to_images(working, torch.empty(0)), full), "the teacher stays as it is"

    def error(network: nn.Module) -> float:
        model.light = network
        return float((model.to_images(working, torch.empty(0)) - full).square().mean())

    assert error(decoder) < 0.3 * error(untrained)
    assert history[-1]["loss"] < history[0]["loss"]


@torch.no_grad()
def test_the_light_decoder_replaces_the_full_decoder_in_any_precision(model: StableDiffusion) -> None:
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


def test_the_first_weights_of_a_light_decoder_depend_on_the_seed_alone(model: StableDiffusion) -> None:
    one, same, other = (build_light_decoder(model, 16, seed) for seed in (1, 1, 2))
    assert_same_weights(one, same)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
