"""Latent diffusion at tiny size: autoencoder, encoding ahead, flow, and back from the registry."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.autoencoder import build_autoencoder
from image_longitudinal.models.diffusion.encoded_images import encode_images
from image_longitudinal.models.diffusion.latent_diffusion import LatentDiffusion
from image_longitudinal.models.diffusion.sampler import sample
from image_longitudinal.models.diffusion.train import DiffusionFigures, build_diffusion, train_diffusion
from image_longitudinal.models.imaging.assembly import assemble_diffusion, diffusion_weights
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.registry.metadata import NetworkConfigs
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import VAEFigures
from tests.models.conftest import VAE_CONFIG, draws, phantoms

CONFIG = DiffusionConfig(
    kind="latent", image_size=32, channels=(16,), autoencoder_width=12, autoencoder_steps=40,
    autoencoder_learning_rate=3e-3, encoded_variants=2, steps=6, batch_size=8, learning_rate=1e-3, ema_decay=0.5,
)  # fmt: skip
Trained = tuple[LatentDiffusion, DiffusionFigures, Path]


@pytest.fixture(scope="module")
def trained(
    trained_vae: tuple[VAE, VAEFigures], tiny_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("latent")
    model, figures = train_diffusion(trained_vae[0], tiny_images, phantoms(9, 32, 1), CONFIG, 1, folder / "a", "cpu")
    assert isinstance(model, LatentDiffusion)
    return model, figures, folder


def test_training_leaves_every_figure(trained: Trained) -> None:
    model, figures, _ = trained
    assert model.working_shape == (4, 8, 8)
    assert figures.autoencoder_history is not None
    assert figures.autoencoder_history[-1]["mse"] < 0.5 * figures.autoencoder_history[0]["mse"]
    for value in (figures.validation_loss, figures.pixel_mse, figures.working_mse, figures.autoencoder_mse):
        assert value is not None
        assert np.isfinite(value)


def test_its_latents_are_standardised_and_decode_again(trained: Trained, tiny_images: np.ndarray) -> None:
    model, figures, _ = trained
    images, z = to_unit(tiny_images, "cpu"), torch.zeros(len(tiny_images), model.latent_dim)
    with torch.no_grad():
        working = model.to_working(images, z)
        again = model.to_images(working, z)
    torch.testing.assert_close(working.mean((0, 2, 3)), torch.zeros(4), atol=0.3, rtol=0)  # fitted to cropped views
    torch.testing.assert_close(working.std((0, 2, 3)), torch.ones(4), atol=0.3, rtol=0)
    assert float((again - images).square().mean()) < 3 * float(figures.autoencoder_mse or 0)


def test_images_depend_on_z_by_the_vaes_image_alone_before_training(trained_vae: tuple[VAE, VAEFigures]) -> None:
    model = build_diffusion(trained_vae[0], CONFIG, 1)
    z = torch.randn(2, model.latent_dim)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 800])
    with torch.no_grad():
        predicted = model.denoise(model.denoiser, noisy, t, z, model.context(z))
    assert not predicted.any()  # the last layer starts at zero
    assert (model.context(z)[0] != model.context(z)[1]).any()


def test_what_is_encoded_ahead_is_what_would_be_encoded_in_a_step(trained: Trained, tiny_images: np.ndarray) -> None:
    model, _, folder = trained
    place = folder / "a.encoded"
    encoded = encode_images(model, model.vae, tiny_images, CONFIG.encoded_variants, 1, place)
    assert len(encoded) == 2 * len(tiny_images)
    assert encoded.working.dtype == np.float16
    again = encode_images(model, model.vae, tiny_images, CONFIG.encoded_variants, 1, folder / "again")
    np.testing.assert_array_equal(again.working, encoded.working)
    assert (encoded.working[0] != encoded.working[len(tiny_images)]).any()  # another view of the same image
    # Samples of z: over all views of all images the standardised latents have mean 0 and covariance I.
    rows = np.arange(len(encoded)).repeat(20)
    _, z = encoded.batch(rows, model.vae, torch.Generator().manual_seed(0), torch.device("cpu"))
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=0.4, rtol=0)  # fitted to centred views
    torch.testing.assert_close(z.std(0), torch.ones(z.shape[1]), atol=0.35, rtol=0)


def test_a_resumed_training_ends_in_the_same_bits(trained: Trained, tiny_images: np.ndarray, tmp_path: Path) -> None:
    model, _, _ = trained
    half = CONFIG.model_copy(update={"steps": 3})
    train_diffusion(model.vae, tiny_images, phantoms(9, 32, 1), half, 1, tmp_path / "a", "cpu")
    resumed, _ = train_diffusion(model.vae, tiny_images, phantoms(9, 32, 1), CONFIG, 1, tmp_path / "a", "cpu")
    for key, value in diffusion_weights(model).items():
        assert torch.equal(diffusion_weights(resumed)[key], value), key


def test_stored_weights_give_the_same_images(trained: Trained) -> None:
    model, _, _ = trained
    networks = NetworkConfigs(vae=VAE_CONFIG, diffusion=CONFIG)
    again = assemble_diffusion(networks, model.vae, diffusion_weights(model))
    z, seeds = draws(3, model.latent_dim)
    options = {"scheduler": "euler", "steps": 3}
    expected = sample(model.eval(), torch.from_numpy(z), seeds, **options)  # type: ignore[arg-type]
    assert expected.shape == (3, 32, 32)
    np.testing.assert_array_equal(sample(again, torch.from_numpy(z), seeds, **options), expected)  # type: ignore[arg-type]


def test_a_pretrained_autoencoder_is_taken_from_a_folder(pretrained: Path, tmp_path: Path) -> None:
    autoencoder = build_autoencoder(CONFIG.model_copy(update={"autoencoder": str(pretrained / "vae")}), 0)
    assert (autoencoder.factor, autoencoder.channels) == (4, 4)
    images = torch.rand(2, 1, 32, 32)
    assert autoencoder(images)[0].shape == images.shape
    with pytest.raises(ModelError, match=r"cannot load the pretrained autoencoder .*diffusion\.autoencoder"):
        build_autoencoder(CONFIG.model_copy(update={"autoencoder": str(tmp_path)}), 0)
