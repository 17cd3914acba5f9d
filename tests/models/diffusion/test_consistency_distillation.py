"""The distilled student: its loss in cases with a known answer, its training, and its few-step samples."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_longitudinal.core.config import DistillationConfig
from image_longitudinal.models.diffusion.consistency_distillation import consistency_loss, train_student
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.diffusion.schedules import make_sample_schedule, to_x0_eps
from image_longitudinal.models.training import loop
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae.network import VAE
from tests.models.vae.test_train import Failing, Interrupted

FLOW = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction"}


class Point(nn.Module):
    """Predicts the flow to one clean value from anywhere: the teacher of data that are all alike, and exact."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        sigma = ((timesteps + 1) / 1000)[:, None, None, None]
        return (x - self.value) / sigma


class PointModel(DiffusionModel):
    """A flow between noise and images of one grey level."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.working_shape = 4, 1, (1, 4, 4)
        self.schedule, self.denoiser = FLOW, Point(0.3)

    def context(self, latents: Tensor) -> Tensor:
        return latents

    def to_working(self, images: Tensor, latents: Tensor) -> Tensor:
        return images

    def to_images(self, working: Tensor, latents: Tensor) -> Tensor:
        return working

    def rotate(self, axes: Tensor) -> None:
        raise AssertionError("nothing here rotates axes")

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        return denoiser(noisy, timesteps)


def loss_of(student: nn.Module, grid: int = 4) -> Tensor:
    model = PointModel()
    working = torch.full((64, 1, 4, 4), 0.3)
    return consistency_loss(
        model,
        student,
        model.denoiser,
        make_sample_schedule(FLOW, grid),
        working,
        torch.zeros(64, 1),
        step_generator(1, "t", 0),
    )


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


CONFIG = DistillationConfig(student_steps=6, teacher_steps=4, batch_size=4, learning_rate=1e-3, ema_decay=0.5)


def test_a_killed_and_resumed_distillation_ends_in_the_same_bits_and_leaves_the_teacher_alone(
    residual: ResidualDiffusion,
    tiny_vae: VAE,
    tiny_images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = copy.deepcopy(residual.denoiser.state_dict())
    whole, history = train_student(residual, tiny_vae, tiny_images, CONFIG, 1, tmp_path / "whole", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        with pytest.raises(Interrupted):
            train_student(residual, tiny_vae, Failing(tiny_images, 3), CONFIG, 1, tmp_path / "killed", "cpu")
    assert load_tensors(tmp_path / "killed")[1]["step"] == "3"
    resumed, resumed_history = train_student(residual, tiny_vae, tiny_images, CONFIG, 1, tmp_path / "killed", "cpu")
    assert resumed_history == history
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
        assert torch.equal(residual.denoiser.state_dict()[key], before[key]), key
    assert any(not torch.equal(value, before[key]) for key, value in whole.state_dict().items())


class TwoPoints(PointModel):
    """Data are -0.5 or 0.5: from noise, the exact denoiser predicts their mean, 0; a trajectory ends at either."""

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        sigma = ((timesteps + 1) / 1000)[:, None, None, None]
        if denoiser is not self.denoiser:
            return denoiser(torch.cat([noisy, sigma], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        clean = 0.5 * torch.tanh(0.5 * (1 - sigma) * noisy / sigma**2)
        return (noisy - clean) / sigma


def test_a_student_learns_the_ends_of_its_teachers_trajectories() -> None:
    model, schedule = TwoPoints(), make_sample_schedule(FLOW, 8)
    student = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    for step in range(800):
        draws = step_generator(1, "two points", step)
        working = torch.randint(0, 2, (256, 1, 1, 1), generator=draws) - 0.5
        loss = consistency_loss(model, student, model.denoiser, schedule, working, torch.zeros(256, 1), draws)
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
