"""Training of the VAE: its latent space is the one that data sets sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.models.imaging.grey_images import ImageRows, to_unit
from image_longitudinal.models.registry.metadata import VAETraining
from image_longitudinal.models.training import loop
from image_longitudinal.models.training.tensor_files import load_tensors
from image_longitudinal.models.vae import train as module
from image_longitudinal.models.vae.augmentation import centre_view
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import build_vae, latent_importance, train_vae
from tests.models.conftest import VAE_CONFIG, assert_same_weights, phantoms

Trained = tuple[VAE, VAETraining]


def standardised_posterior(vae: VAE, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Covariance of the standardised posterior means, and mean covariance of the posteriors around them."""
    with torch.no_grad():
        view = centre_view(to_unit(images, "cpu"))
        mean = vae.encode(view).double()
        variance = vae.encoder(view)[1].exp().mean(0).double()
    inverse = torch.linalg.inv(vae.transform.double())
    return torch.cov(mean.T), inverse @ torch.diag(variance) @ inverse.T


def test_standardised_latents_have_mean_0_and_covariance_1(trained_vae: Trained, tiny_images: np.ndarray) -> None:
    """Over the training images, the posterior's own variance included; 1e-4 is float32 rounding of the network."""
    vae, _ = trained_vae
    with torch.no_grad():
        mean = vae.encode(centre_view(to_unit(tiny_images, "cpu"))).mean(0)
    torch.testing.assert_close(mean, torch.zeros(5), atol=1e-4, rtol=0)
    between, within = standardised_posterior(vae, tiny_images)
    torch.testing.assert_close(between + within, torch.eye(5).double(), atol=1e-4, rtol=0)


def test_the_most_informative_axes_come_first(trained_vae: Trained, tiny_images: np.ndarray) -> None:
    """Variances of the posterior means descend along the axes, which are uncorrelated."""
    between, _ = standardised_posterior(trained_vae[0], tiny_images)
    variances = between.diagonal()
    assert (variances.diff() <= 1e-6).all()
    assert variances[0] > 0.2, "nothing was learned"  # untrained, the encoder says next to nothing
    torch.testing.assert_close(between, torch.diag(variances), atol=1e-4, rtol=0)


def test_standardising_twice_changes_nothing_and_images_stay(trained_vae: Trained, tiny_images: np.ndarray) -> None:
    vae = build_vae(VAE_CONFIG, 1)
    vae.load_state_dict(trained_vae[0].state_dict())
    vae.eval()
    before, view = vae.transform.clone(), centre_view(to_unit(tiny_images[:4], "cpu"))
    with torch.no_grad():
        decoded = vae.decode(vae.encode(view))
        vae.transform.copy_(torch.eye(5))
        vae.shift.zero_()
        raw = vae.decode(vae.encode(view))
    torch.testing.assert_close(decoded, raw, atol=1e-4, rtol=0)
    module.standardise(vae, tiny_images)
    assert torch.equal(vae.transform, before)


def test_the_figures_say_what_was_left(trained_vae: Trained, tiny_images: np.ndarray) -> None:
    vae, figures = trained_vae
    assert figures.perception == "ms-ssim"
    assert figures.kl == sorted(figures.kl, reverse=True)
    assert len(figures.kl) == 5
    assert figures.active_units == sum(value > 0.1 for value in figures.kl) > 0
    assert figures.validation_mse == pytest.approx(module.reconstruction_error(vae, phantoms(9, 32, 1)))
    assert np.isnan(module.reconstruction_error(vae, tiny_images[:0]))
    assert figures.history[-1]["step"] == VAE_CONFIG.steps - 1
    assert figures.history[-1]["mse"] < 0.7 * figures.history[0]["mse"]


def test_the_same_seed_gives_the_same_bits_and_another_others(tiny_images: np.ndarray, tmp_path: Path) -> None:
    short = VAE_CONFIG.model_copy(update={"steps": 1})
    first, same, other = (
        train_vae(tiny_images, tiny_images[:0], short, seed, tmp_path / name, "cpu")[0]
        for seed, name in ((1, "first"), (1, "same"), (2, "other"))
    )
    assert_same_weights(first, same)
    assert not torch.equal(other.transform, first.transform)


class Interrupted(Exception):
    """Stands for a kill."""


class Failing:
    """Images that can be read ``reads`` times."""

    def __init__(self, images: np.ndarray, reads: int) -> None:
        self.images, self.left = images, reads

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return self.images[rows]


@pytest.mark.parametrize("kills", [(1,), (7, 20)], ids=str)
def test_a_killed_and_resumed_training_ends_in_the_same_bits(
    trained_vae: Trained, tiny_images: np.ndarray, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        for reads in kills:
            images: ImageRows = Failing(tiny_images, reads)
            with pytest.raises(Interrupted):
                train_vae(images, tiny_images[:0], VAE_CONFIG, 1, tmp_path / "checkpoint", "cpu")
    assert load_tensors(tmp_path / "checkpoint")[1]["step"] == str(sum(kills))
    resumed, figures = train_vae(tiny_images, phantoms(9, 32, 1), VAE_CONFIG, 1, tmp_path / "checkpoint", "cpu")
    assert_same_weights(resumed, trained_vae[0])
    assert figures == trained_vae[1]


def test_the_cycle_term_joins_after_the_warm_up_and_trains_the_encoder(tiny_images: np.ndarray, tmp_path: Path) -> None:
    config = VAE_CONFIG.model_copy(update={"cycle_weight": 0.1, "steps": 12, "kl_warmup_steps": 10})
    _, figures = train_vae(tiny_images, tiny_images[:0], config, 1, tmp_path / "checkpoint", "cpu")
    assert "cycle" not in figures.history[0]
    assert figures.history[-1]["cycle"] >= 0


def test_the_cycle_term_is_the_error_of_active_entries_read_back() -> None:
    vae = build_vae(VAE_CONFIG, 1).eval()
    prior = torch.randn(3, 5)
    with torch.no_grad():
        error = (vae.encoder(vae.decoder(prior))[0] - prior).square()
        for kl in ([1.0, 0.0, 0.2, 0.0, 0.0], [0.0] * 5):
            active = torch.tensor(kl) > 0.1
            expected = error[:, active].sum(1).mean()
            torch.testing.assert_close(module.cycle_loss(vae, prior, torch.tensor(kl)), expected)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = build_vae(VAE_CONFIG, 1)
    after = torch.rand(1)
    torch.manual_seed(4)
    second, other = build_vae(VAE_CONFIG, 1), build_vae(VAE_CONFIG, 2)
    assert_same_weights(first, second)
    assert not torch.equal(first.encoder.mean.weight, other.encoder.mean.weight)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after), "building a network must not use up the caller's random numbers"


def test_one_latent_dimension_is_enough(tiny_images: np.ndarray, tmp_path: Path) -> None:
    config = VAEConfig.model_validate(VAE_CONFIG.model_dump() | {"latent_dim": 1, "steps": 2})
    vae, figures = train_vae(tiny_images, tiny_images[:0], config, 1, tmp_path / "checkpoint", "cpu")
    between, within = standardised_posterior(vae, tiny_images)
    assert float(between.reshape(()) + within.reshape(())) == pytest.approx(1, abs=1e-4)
    assert len(figures.kl) == 1


class Known(VAE):
    """Decodes dimension 0 to the upper half and half of 1 to the lower; reads 0 exactly, 1 as zero."""

    def __init__(self) -> None:
        super().__init__(32, 3, 1 / 64)

    def decode(self, latents: Tensor) -> Tensor:
        upper, lower = (latents[:, i, None, None, None].expand(-1, 1, 16, 32) for i in (0, 1))
        return torch.cat([upper, 0.5 * lower], 2)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.stack([images[:, 0, 0, 0], torch.zeros(len(images)), torch.full((len(images),), 2.0)], 1)


def test_change_and_reading_error_of_a_known_model() -> None:
    figures = latent_importance(Known().eval(), 0)
    # A resampled dimension changes by N(0, 2): half of the pixels by 2, half by 2/4; the third has no effect.
    assert figures.change == pytest.approx([1, 0.25, 0], rel=0.25)  # 341 latents
    assert figures.change[2] == 0
    assert figures.reading_error == pytest.approx([0, 1, 5], rel=0.2, abs=1e-9)
    assert latent_importance(Known().eval(), 0) == figures
