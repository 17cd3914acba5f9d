"""Training of the residual and the latent model: exact resume, posterior samples, scales that fit, encoding ahead."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.adagn import LatentDiffusion, ResidualDiffusion
from image_longitudinal.models.diffusion.autoencoder import build_autoencoder
from image_longitudinal.models.diffusion.train import (
    build_diffusion,
    encode_images,
    measure_residual_scale,
    sample_latents,
    train_diffusion,
)
from image_longitudinal.models.imaging.assembly import assemble_diffusion, diffusion_weights
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.registry.metadata import DiffusionTraining, NetworkConfigs, VAETraining
from image_longitudinal.models.training import loop
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae.augmentation import centre_view
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import DIFFUSION_CONFIG, VAE_CONFIG, assert_same_weights, draws, phantoms
from tests.models.diffusion.conftest import images_of
from tests.models.vae.test_train import Failing, Interrupted

Trained = tuple[VAE, VAETraining]


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_a_killed_and_resumed_training_ends_in_the_same_bits(
    trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: str
) -> None:
    config = DIFFUSION_CONFIG.model_copy(update={"learning_rate_decay": decay})
    arguments = (tiny_images[:6], config, 1)
    vae = copy.deepcopy(trained_vae[0])
    whole, figures = train_diffusion(vae, tiny_images, *arguments, tmp_path / "whole", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        with pytest.raises(Interrupted):  # the first read measures the residual
            train_diffusion(vae, Failing(tiny_images, 4), *arguments, tmp_path / "killed", "cpu")
    assert load_tensors(tmp_path / "killed")[1]["step"] == "3"
    resumed, resumed_figures = train_diffusion(vae, tiny_images, *arguments, tmp_path / "killed", "cpu")
    assert resumed_figures == figures
    assert_same_weights(resumed, whole)
    assert_same_weights(vae, trained_vae[0])
    assert not torch.equal(whole.denoiser.conv_out.weight, torch.zeros_like(whole.denoiser.conv_out.weight))


def test_training_brings_the_loss_down(trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path) -> None:
    """From predicting nothing; both losses on the same held-out images with the same noise."""
    losses = []
    for steps in (1, 60):
        config = DIFFUSION_CONFIG.model_copy(update={"steps": steps, "learning_rate": 2e-3, "batch_size": 8})
        arguments = (tiny_images, phantoms(16, 32, 2), config, 1, tmp_path / str(steps), "cpu")
        losses.append(train_diffusion(trained_vae[0], *arguments)[1].validation_loss)
    assert losses[1] < 0.95 * losses[0]


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
        sampled = sample_latents(vae, view, torch.Generator().manual_seed(0))
        mean = vae.encode(view[:1])[0]
        sd = vae.encoder(view[:1])[1][0].mul(0.5).exp()
    raw = (sampled - mean) @ vae.transform.T / sd
    torch.testing.assert_close(raw.mean(0), torch.zeros(5), atol=0.1, rtol=0)  # four standard errors of 2,000
    torch.testing.assert_close(torch.cov(raw.T), torch.eye(5), atol=0.15, rtol=0)
    flat = torch.full((2, 1, 64, 64), 0.4)  # images of another size are resized for the encoder
    large, small = (sample_latents(vae, x, torch.Generator().manual_seed(1)) for x in (flat, flat[..., :32, :32]))
    torch.testing.assert_close(large, small, atol=1e-4, rtol=0)


def test_initial_weights_depend_on_the_seed_alone(trained_vae: Trained) -> None:
    torch.manual_seed(3)
    first, second, other = (build_diffusion(trained_vae[0], DIFFUSION_CONFIG, seed).denoiser for seed in (1, 1, 2))
    assert_same_weights(first, second)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("held_out", [0, 2])
def test_a_model_larger_than_its_vae_trains(trained_vae: Trained, tmp_path: Path, held_out: int) -> None:
    """Without validation images there is no validation loss."""
    config = DiffusionConfig.model_validate(DIFFUSION_CONFIG.model_dump() | {"image_size": 64, "steps": 1})
    images = phantoms(8, 64, 6)
    model, figures = train_diffusion(trained_vae[0], images, images[:held_out], config, 1, tmp_path / "a", "cpu")
    assert model.image_size == 64
    assert (figures.validation_loss is not None) == bool(held_out)


LATENT = DiffusionConfig(
    kind="latent", image_size=32, channels=(16,), autoencoder_width=12, autoencoder_steps=40,
    autoencoder_learning_rate=3e-3, encoded_variants=2, steps=6, batch_size=8, learning_rate=1e-3, ema_decay=0.5,
)  # fmt: skip
LatentTrained = tuple[LatentDiffusion, DiffusionTraining, Path]


@pytest.fixture(scope="module")
def latent(trained_vae: Trained, tiny_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> LatentTrained:
    folder = tmp_path_factory.mktemp("latent")
    model, figures = train_diffusion(trained_vae[0], tiny_images, phantoms(9, 32, 1), LATENT, 1, folder / "a", "cpu")
    assert isinstance(model, LatentDiffusion)
    return model, figures, folder


def test_a_latent_model_has_every_figure_and_standardised_working_tensors_that_decode_again(
    latent: LatentTrained, tiny_images: np.ndarray
) -> None:
    model, figures, _ = latent
    assert model.working_shape == (4, 8, 8)
    assert figures.autoencoder_history is not None
    assert figures.autoencoder_history[-1]["mse"] < 0.5 * figures.autoencoder_history[0]["mse"]
    for value in (figures.validation_loss, figures.pixel_mse, figures.working_mse, figures.autoencoder_mse):
        assert value is not None
        assert np.isfinite(value)
    images, z = to_unit(tiny_images, "cpu"), torch.zeros(len(tiny_images), model.latent_dim)
    with torch.no_grad():
        working = model.to_working(images, z)
        again = model.to_images(working, z)
    torch.testing.assert_close(working.mean((0, 2, 3)), torch.zeros(4), atol=0.3, rtol=0)  # fitted to cropped views
    torch.testing.assert_close(working.std((0, 2, 3)), torch.ones(4), atol=0.3, rtol=0)
    assert float((again - images).square().mean()) < 3 * float(figures.autoencoder_mse or 0)


def test_images_encoded_ahead_are_what_a_step_would_encode(latent: LatentTrained, tiny_images: np.ndarray) -> None:
    model, _, folder = latent
    place = folder / "a.encoded"
    encoded = encode_images(model, model.vae, tiny_images, LATENT.encoded_variants, 1, place)
    assert (len(encoded), encoded.working.dtype) == (2 * len(tiny_images), np.float16)
    again = encode_images(model, model.vae, tiny_images, LATENT.encoded_variants, 1, folder / "again")
    np.testing.assert_array_equal(again.working, encoded.working)
    assert (encoded.working[0] != encoded.working[len(tiny_images)]).any()  # another view of the same image
    # Samples of z: over all views of all images the standardised latents have mean 0 and covariance I.
    rows = np.arange(len(encoded)).repeat(20)
    _, z = encoded.batch(rows, model.vae, torch.Generator().manual_seed(0), torch.device("cpu"))
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=0.4, rtol=0)  # fitted to centred views
    torch.testing.assert_close(z.std(0), torch.ones(z.shape[1]), atol=0.35, rtol=0)


def test_a_resumed_latent_training_ends_in_the_same_bits_and_stored_weights_give_the_same_images(
    latent: LatentTrained, tiny_images: np.ndarray, tmp_path: Path
) -> None:
    model, _, _ = latent
    half = LATENT.model_copy(update={"steps": 3})
    train_diffusion(model.vae, tiny_images, phantoms(9, 32, 1), half, 1, tmp_path / "a", "cpu")
    resumed, _ = train_diffusion(model.vae, tiny_images, phantoms(9, 32, 1), LATENT, 1, tmp_path / "a", "cpu")
    for key, value in diffusion_weights(model).items():
        assert torch.equal(diffusion_weights(resumed)[key], value), key
    networks = NetworkConfigs(vae=VAE_CONFIG, diffusion=LATENT)
    again = assemble_diffusion(networks, model.vae, diffusion_weights(model))
    z, seeds = draws(3, model.latent_dim)
    expected = images_of(model.eval(), z, seeds, "euler", 3)
    assert expected.shape == (3, 32, 32)
    np.testing.assert_array_equal(images_of(again, z, seeds, "euler", 3), expected)


def test_a_pretrained_autoencoder_is_taken_from_a_folder(pretrained: Path, tmp_path: Path) -> None:
    autoencoder = build_autoencoder(LATENT.model_copy(update={"autoencoder": str(pretrained / "vae")}), 0)
    assert (autoencoder.factor, autoencoder.channels) == (4, 4)
    images = torch.rand(2, 1, 32, 32)
    assert autoencoder(images)[0].shape == images.shape
    with pytest.raises(ModelError, match=r"cannot load the pretrained autoencoder .*diffusion\.autoencoder"):
        build_autoencoder(LATENT.model_copy(update={"autoencoder": str(tmp_path)}), 0)
