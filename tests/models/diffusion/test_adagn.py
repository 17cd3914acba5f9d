"""The residual model: what it adds to the VAE's image, and nothing before it has learned anything."""

import pytest
import torch
from torch.nn.functional import interpolate

from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.vae.network import VAE
from tests.models.diffusion.conftest import assert_rotation_keeps_predictions


@pytest.mark.parametrize("size", [32, 64, 96])
def test_working_tensors_and_images_invert_each_other(tiny_vae: VAE, size: int) -> None:
    """At the VAE's size and beyond; float32 rounding."""
    model = ResidualDiffusion(tiny_vae, size, (16,), residual_scale=0.07)
    images, z = torch.rand(3, 1, size, size), torch.randn(3, 5)
    working = model.to_working(images, z)
    assert working.shape == (3, *model.working_shape) == (3, 16, size // 4, size // 4)
    torch.testing.assert_close(model.to_images(working, model.context(z)), images, atol=1e-6, rtol=0)
    extreme = model.to_images(100 * working, model.context(z))
    assert (extreme.min(), extreme.max()) == (0, 1)
    back = model.to_working(model.to_images(0.1 * working, model.context(z)), z)
    torch.testing.assert_close(back, 0.1 * working, atol=1e-4, rtol=0)


def test_the_working_tensor_is_the_residual_in_units_of_its_scale(tiny_vae: VAE) -> None:
    model = ResidualDiffusion(tiny_vae, 32, (16,), residual_scale=0.1)
    z = torch.randn(2, 5)
    brighter = tiny_vae.decode(z) + 0.1
    torch.testing.assert_close(model.to_working(brighter, z), torch.ones(2, 16, 8, 8), atol=1e-5, rtol=0)


def test_the_prediction_depends_on_noise_time_latents_and_outline(residual: ResidualDiffusion) -> None:
    noisy, z, t = torch.randn(1, 16, 8, 8), torch.randn(1, 5), torch.tensor([500])
    context = residual.context(z)
    with torch.no_grad():
        base = residual.denoise(residual.denoiser, noisy, t, z, context)
        kept = [noisy, t, z, context]
        for i, change in enumerate((0.1, 100, 1, 0.5)):
            changed = [*kept[:i], kept[i] + change, *kept[i + 1 :]]
            assert (residual.denoise(residual.denoiser, *changed) - base).abs().max() > 1e-4


def test_a_larger_model_sees_the_vaes_image_enlarged(tiny_vae: VAE) -> None:
    z = torch.randn(2, 5)
    outline = ResidualDiffusion(tiny_vae, 64, (16,)).vae_image(z)
    assert outline.shape == (2, 1, 64, 64)
    torch.testing.assert_close(outline, interpolate(tiny_vae.decode(z), (64, 64), mode="bilinear", antialias=True))


@pytest.mark.parametrize("channels", [(16,), (32, 48), (16, 32, 48)])
def test_an_untrained_network_of_any_levels_predicts_nothing(tiny_vae: VAE, channels: tuple[int, ...]) -> None:
    model = ResidualDiffusion(tiny_vae, 32, channels).eval()
    z = torch.randn(2, 5)
    predicted = model.denoise(model.denoiser, torch.randn(2, 16, 8, 8), torch.tensor([3, 999]), z, model.context(z))
    assert torch.equal(predicted, torch.zeros(2, 16, 8, 8))
    assert not any(parameter.requires_grad for parameter in model.vae.parameters())
    assert all(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_rotating_the_axes_of_z_changes_no_prediction(residual: ResidualDiffusion) -> None:
    assert_rotation_keeps_predictions(residual, residual.vae)
