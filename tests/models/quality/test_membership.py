"""Training scans are told by losses where networks know them by heart, and not where they were never seen."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scorecard import ByHeart
from image_longitudinal.core.config import VAEConfig
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.flattened.images import flatten_images
from image_longitudinal.models.flattened.train import fit_flattened_retina
from image_longitudinal.models.quality.judge.judge import RealScans
from image_longitudinal.models.quality.membership import denoising_losses, membership_figures, reconstruction_losses
from image_longitudinal.models.vae.network import VAE
from tests.models.conftest import phantoms


def scans(images: np.ndarray, name: str) -> RealScans:
    return RealScans(images, np.array([f"{name} {i // 2}" for i in range(len(images))]))


@pytest.fixture(scope="module")
def known_and_new() -> tuple[RealScans, RealScans]:
    return scans(phantoms(40, 32, 3), "a"), scans(phantoms(40, 32, 4), "b")


def test_networks_that_never_saw_either_set_tell_nothing(
    trained_vae: tuple[VAE, object], known_and_new: tuple[RealScans, RealScans]
) -> None:
    vae = trained_vae[0]
    generator = ResidualDiffusion(vae, 32, (16,)).eval()
    found = membership_figures(vae, generator, *known_and_new, seed=1)
    assert (found.members, found.others) == (40, 40)
    assert found.diffusion_auc is not None
    for auc in (found.vae_auc, found.diffusion_auc):
        assert auc.low < 0.5 < auc.high
        assert auc.high - auc.low < 0.5
    assert membership_figures(vae, generator, *known_and_new, seed=1) == found
    assert membership_figures(vae, None, *known_and_new, seed=1).diffusion_auc is None


def test_a_denoiser_that_knows_the_scans_by_heart_gives_every_one_away(
    trained_vae: tuple[VAE, object], known_and_new: tuple[RealScans, RealScans]
) -> None:
    vae = trained_vae[0]
    generator = ResidualDiffusion(vae, 32, (16,), residual_scale=0.1).eval()
    by_heart = ByHeart(generator, vae, known_and_new[0].images)
    found = membership_figures(vae, by_heart, *known_and_new, seed=1)
    assert found.diffusion_auc is not None
    assert found.diffusion_auc.value == 1
    assert denoising_losses(by_heart, vae, known_and_new[0].images, seed=1).shape == (40,)


def test_components_fitted_to_few_scans_tell_them(tmp_path: Path) -> None:
    """Mean image and components of 20 scans explain them better than others."""
    known, new = phantoms(20, 32, 6), phantoms(30, 32, 5)
    flat = flatten_images(known, 32, tmp_path / "flat")
    config = VAEConfig(kind="flattened", image_size=32, latent_dim=10)
    retina = fit_flattened_retina(flat, np.arange(20), config, 0)[0]
    assert reconstruction_losses(retina, new).shape == (30,)
    found = membership_figures(retina, None, scans(known, "a"), scans(new, "b"), seed=0)
    assert found.vae_auc.low > 0.5
