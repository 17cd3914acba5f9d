"""Training of the diffusion model: exact resume, conditioning on posterior samples, a scale that fits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.models.diffusion.residual_diffusion import ResidualDiffusion
from image_longitudinal.models.diffusion.train import (
    build_diffusion,
    measure_residual_scale,
    sample_latents,
    train_diffusion,
)
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training import loop
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae.augmentation import centre_view
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import VAEFigures
from tests.models.conftest import DIFFUSION_CONFIG, phantoms
from tests.models.vae.test_train import Failing, Interrupted

Trained = tuple[VAE, VAEFigures]


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_a_killed_and_resumed_training_ends_in_the_same_bits(
    trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: str
) -> None:
    config = DIFFUSION_CONFIG.model_copy(update={"learning_rate_decay": decay})
    arguments = (tiny_images[:6], config, 1)
    vae = trained_vae[0]
    whole, figures = train_diffusion(vae, tiny_images, *arguments, tmp_path / "whole", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        with pytest.raises(Interrupted):  # the first read measures the residual
            train_diffusion(vae, Failing(tiny_images, 4), *arguments, tmp_path / "killed", "cpu")
    assert load_tensors(tmp_path / "killed")[1]["step"] == "3"
    resumed, resumed_figures = train_diffusion(vae, tiny_images, *arguments, tmp_path / "killed", "cpu")
    assert resumed_figures == figures
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert not torch.equal(whole.denoiser.conv_out.weight, torch.zeros_like(whole.denoiser.conv_out.weight))


def test_the_vae_stays_as_it_was(trained_vae: Trained, tiny_version: ModelVersion) -> None:
    for key, value in tiny_version.tensors("vae").items():
        assert torch.equal(trained_vae[0].state_dict()[key], value), key


def test_training_brings_the_loss_down(trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path) -> None:
    """From predicting nothing; both losses on the same held-out images with the same noise."""
    losses = []
    for steps in (1, 60):
        config = DIFFUSION_CONFIG.model_copy(update={"steps": steps, "learning_rate": 2e-3, "batch_size": 8})
        _, figures = train_diffusion(
            trained_vae[0], tiny_images, phantoms(16, 32, 2), config, 1, tmp_path / str(steps), "cpu"
        )
        losses.append(figures.validation_loss)
    assert losses[1] < 0.95 * losses[0]


def test_without_validation_images_the_loss_is_undefined(
    trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path
) -> None:
    config = DIFFUSION_CONFIG.model_copy(update={"steps": 1})
    _, figures = train_diffusion(
        trained_vae[0], tiny_images, tiny_images[:0], config, 1, tmp_path / "checkpoint", "cpu"
    )
    assert np.isnan(figures.validation_loss)


@pytest.mark.parametrize("size", [32, 64])
def test_the_residual_in_its_units_has_standard_deviation_1(trained_vae: Trained, size: int) -> None:
    """Over the images it was measured on: other posterior samples move it by a few percent."""
    vae, images = trained_vae[0], phantoms(64, size, 4)
    scale = measure_residual_scale(vae, images, size, 1)
    model = ResidualDiffusion(vae, size, (16,), scale)
    view = centre_view(to_unit(images, "cpu"))
    with torch.no_grad():
        working = model.to_working(view, sample_latents(vae, view, torch.Generator().manual_seed(0)))
    assert working.std().item() == pytest.approx(1, abs=0.05)


def test_posterior_samples_scatter_around_the_mean_by_the_posteriors_width(trained_vae: Trained) -> None:
    vae = trained_vae[0]
    view = centre_view(to_unit(phantoms(1, 32, 5), "cpu")).expand(2000, -1, -1, -1)
    with torch.no_grad():
        drawn = sample_latents(vae, view, torch.Generator().manual_seed(0))
        mean = vae.encode(view[:1])[0]
        sd = vae.encoder(view[:1])[1][0].mul(0.5).exp()
    raw = (drawn - mean) @ vae.transform.T / sd
    torch.testing.assert_close(raw.mean(0), torch.zeros(5), atol=0.1, rtol=0)  # four standard errors of 2,000 draws
    torch.testing.assert_close(torch.cov(raw.T), torch.eye(5), atol=0.15, rtol=0)


def test_images_of_another_size_are_resized_for_the_encoder(trained_vae: Trained) -> None:
    flat = torch.full((2, 1, 64, 64), 0.4)
    generator = torch.Generator()
    with torch.no_grad():
        large = sample_latents(trained_vae[0], flat, generator.manual_seed(1))
        small = sample_latents(trained_vae[0], flat[..., :32, :32], generator.manual_seed(1))
    torch.testing.assert_close(large, small, atol=1e-4, rtol=0)


def test_initial_weights_depend_on_the_seed_alone(trained_vae: Trained) -> None:
    torch.manual_seed(3)
    first = build_diffusion(trained_vae[0], DIFFUSION_CONFIG, 1).denoiser.state_dict()
    second = build_diffusion(trained_vae[0], DIFFUSION_CONFIG, 1).denoiser.state_dict()
    other = build_diffusion(trained_vae[0], DIFFUSION_CONFIG, 2).denoiser.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_a_model_larger_than_its_vae_trains(trained_vae: Trained, tmp_path: Path) -> None:
    config = DiffusionConfig.model_validate(DIFFUSION_CONFIG.model_dump() | {"image_size": 64, "steps": 1})
    images = phantoms(8, 64, 6)
    model, figures = train_diffusion(trained_vae[0], images, images[:2], config, 1, tmp_path / "checkpoint", "cpu")
    assert model.image_size == 64
    assert np.isfinite(figures.validation_loss)
