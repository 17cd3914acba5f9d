"""What a model says of z before diffusion: near 1 where images hold z, nothing where its decoder ignores z."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.models.flattened.images import flatten_images
from image_longitudinal.models.flattened.train import fit_flattened_retina
from image_longitudinal.models.quality.latent_signal import latent_signal, posterior_shares
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import build_vae, standardise
from tests.models.conftest import VAE_CONFIG, phantoms


def test_a_flattened_retina_is_read_back_from_its_mean_images(tmp_path: Path) -> None:
    """By construction: curve and components are explicit. 0.95: of a few phantoms at 32 pixels."""
    config = VAEConfig(kind="flattened", image_size=32, latent_dim=8)
    flat = flatten_images(phantoms(40, 64), 32, tmp_path / "phantoms")
    signal = latent_signal(fit_flattened_retina(flat, np.arange(40), config, 0)[0], np.empty((0, 32, 32), np.uint8), 1)
    assert signal.posterior is None
    assert signal.read_back == sorted(signal.read_back, reverse=True)
    assert signal.read_back[2] > 0.95


def test_eigenvalues_say_what_share_of_z_training_images_decide(
    trained_vae: tuple[VAE, object], tiny_images: np.ndarray
) -> None:
    """Those by which :func:`standardise` orders the axes, all between 0 and 1 (1e-4: rounding of float32)."""
    vae = copy.deepcopy(trained_vae[0])
    shares = posterior_shares(vae, tiny_images)
    assert 0 < shares[-1] <= shares[0] < 1
    vae.rotate(torch.eye(5).flip(0))
    assert posterior_shares(vae, tiny_images) == pytest.approx(shares, abs=1e-4)


def test_without_training_images_only_the_models_own_are_looked_at(
    trained_vae: tuple[VAE, object], tiny_images: np.ndarray
) -> None:
    alone, beside = latent_signal(trained_vae[0], None, 1), latent_signal(trained_vae[0], tiny_images, 1)
    assert alone.posterior is None
    assert alone.read_back == beside.read_back


def test_a_collapsed_posterior_and_a_decoder_that_ignores_z_say_nothing(
    trained_vae: tuple[VAE, object], tiny_images: np.ndarray
) -> None:
    deaf = copy.deepcopy(trained_vae[0])
    torch.nn.init.zeros_(deaf.decoder[0].weight)  # every z gives the same image
    alive, ignored = latent_signal(trained_vae[0], tiny_images, 1), latent_signal(deaf, tiny_images, 1)
    assert alive.posterior == ignored.posterior, "the encoder is the same"
    assert max(ignored.read_back) < 0.01
    collapsed = build_vae(VAE_CONFIG, 1).eval()
    torch.nn.init.zeros_(collapsed.encoder.mean.weight)
    standardise(collapsed, tiny_images)
    signal = latent_signal(collapsed, tiny_images, 1)
    assert signal.posterior is not None
    assert max(*signal.posterior, *signal.read_back) < 0.01
