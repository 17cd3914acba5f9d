"""The flattened retina fitted to phantoms: components, prior, reading back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.flattened.images import FlattenedImages
from image_longitudinal.models.flattened.retina import FlattenedRetina, assemble_flattened_retina
from image_longitudinal.models.flattened.train import fit_flattened_retina

CONFIG = VAEConfig(kind="flattened", image_size=32, latent_dim=10)


def test_z_is_read_back_from_the_mean_image(retina: FlattenedRetina) -> None:
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((128, 10))).float()
    read = retina.encode((retina.decode(z) * 255).round() / 255)
    r_squared = 1 - (read - z).square().mean(0) / z.var(0)
    # Only grey levels are lost, by rounding and at black and white.
    assert r_squared[:4].min() > 0.99  # the curve
    assert r_squared.min() > 0.95


def test_coordinates_and_latents_are_inverse(retina: FlattenedRetina) -> None:
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((32, 10))).float()
    torch.testing.assert_close(retina.latents(*retina.coordinates(z)), z, atol=1e-4, rtol=0)


def test_latents_of_the_training_images_are_about_standard_normal(
    retina: FlattenedRetina, flattened: FlattenedImages
) -> None:
    scores = retina.scores(flattened.plain(np.arange(len(flattened)), torch.device("cpu")))
    z = retina.latents(torch.from_numpy(flattened.curves), scores)
    assert z.mean(0).abs().max() < 0.35  # mirror images, with which it is fitted, are not among these
    assert (z.std(0) > 0.7).all()
    assert (z.std(0) < 1.3).all()


def test_components_are_orthonormal_and_a_residual_without_them_leaves_the_scores(retina: FlattenedRetina) -> None:
    weights = retina.row_weight.repeat_interleave(retina.image_size)
    torch.testing.assert_close((retina.basis * weights) @ retina.basis.T, torch.eye(6), atol=1e-4, rtol=0)
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(4, 1, 64, 32, generator=torch.Generator().manual_seed(1))
    flat = retina.mean_flat(scores) + retina.without_components(noise)
    torch.testing.assert_close(retina.scores(flat), scores, atol=1e-4, rtol=0)


def test_the_first_components_explain_most(flattened: FlattenedImages) -> None:
    _, figures = fit_flattened_retina(flattened, np.arange(len(flattened)), CONFIG, 0)
    explained = figures.explained_variance
    assert explained is not None
    assert explained == sorted(explained, reverse=True)
    assert 0.3 < sum(explained) < 1


def test_weights_make_the_same_model_again(retina: FlattenedRetina) -> None:
    again = assemble_flattened_retina(CONFIG, retina.state_dict())
    z = torch.zeros(1, 10)
    assert torch.equal(again.decode(z), retina.decode(z))


def test_other_weights_are_refused(retina: FlattenedRetina) -> None:
    with pytest.raises(ModelError, match="flattened retina"):
        assemble_flattened_retina(CONFIG.model_copy(update={"latent_dim": 12}), retina.state_dict())


def test_too_few_images_are_refused(flattened: FlattenedImages) -> None:
    few = FlattenedImages(flattened.flat[:12], flattened.curves[:12], 32)
    with pytest.raises(ModelError, match="too few images"):
        fit_flattened_retina(few, np.arange(12), CONFIG, 0)


def test_its_dimensions_cannot_be_rotated(retina: FlattenedRetina) -> None:
    assert not retina.rotatable
    with pytest.raises(NotImplementedError):
        retina.rotate(torch.eye(10))


def test_flattened_images_are_kept_on_disk(tmp_path: Path, flattened: FlattenedImages) -> None:
    assert isinstance(flattened.flat, np.memmap)
    rows = np.arange(3)
    first, second = (
        flattened.augmented(rows, torch.Generator().manual_seed(seed), torch.device("cpu")) for seed in (0, 0)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, flattened.plain(rows, torch.device("cpu")))
