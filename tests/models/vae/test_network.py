"""The VAE's architecture: the original's at width 1, any size and width otherwise, and an affine map that inverts."""

import pytest
import torch
from torch import nn

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.vae.network import VAE


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def original() -> VAE:
    return VAE(224, 128, 1.0).eval()


def test_the_originals_encoder_is_resnet18_with_one_channel(original: VAE) -> None:
    resnet18 = 11_176_512 - 2 * 64 * 7 * 7  # torchvision's without its last layer, with one input channel of three
    heads = 2 * (512 * 128 + 128)
    assert parameters(original.encoder) == resnet18 + heads
    convolutions = [m for m in original.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 20  # 17 and three shortcuts
    assert (convolutions[0].in_channels, convolutions[0].out_channels, convolutions[0].kernel_size) == (1, 64, (7, 7))
    assert original.encoder.mean.in_features == 512


def test_the_originals_decoder_has_its_layers_and_makes_224_pixels(original: VAE) -> None:
    """Dense 128→7·7·1024; pairs of convolutions between doublings: 1024→512 ↑ 512→512→256 ↑ ... ↑ 32→32→1."""
    found = []
    for layer in original.decoder:
        if isinstance(layer, nn.Linear):
            found.append(f"dense {layer.in_features}-{layer.out_features}")
        elif isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.padding) == ((3, 3), (1, 1))
            found.append(f"{layer.in_channels}-{layer.out_channels}")
        elif isinstance(layer, nn.Upsample):
            assert (layer.scale_factor, layer.mode) == (2, "nearest")
            found.append("up")
    doublings = ["512-512", "512-256", "256-256", "256-128", "128-128", "128-64", "64-64", "64-32", "32-32", "32-1"]
    pairs = [["up", *doublings[i : i + 2]] for i in range(0, 10, 2)]
    assert found == ["dense 128-50176", "1024-512", *(layer for pair in pairs for layer in pair)]
    kinds = [type(layer) for layer in original.decoder]
    assert kinds[-1] is nn.Sigmoid
    assert kinds.count(nn.BatchNorm2d) == 10  # after each convolution but the last
    assert kinds.count(nn.ReLU) == 11  # the dense layer's too
    with torch.no_grad():
        image = original.decode(torch.zeros(1, 128))
        assert image.shape == (1, 1, 224, 224)
        assert original.encode(image).shape == (1, 128)


@pytest.mark.parametrize(("size", "latent_dim"), [(32, 1), (64, 7), (96, 7)])
@pytest.mark.parametrize("width", [1 / 128, 0.1, 0.25])
def test_shapes_at_other_sizes_and_widths(size: int, width: float, latent_dim: int) -> None:
    vae = VAE(size, latent_dim, width)
    images = torch.rand(3, 1, size, size)
    output, mean, log_variance = vae(images, torch.randn(3, latent_dim))
    assert output.shape == images.shape
    assert 0 <= output.min() <= output.max() <= 1
    assert mean.shape == log_variance.shape == (3, latent_dim)
    assert vae.encode(images).shape == (3, latent_dim)
    assert vae.decode(mean).shape == images.shape


@pytest.fixture
def mapped() -> VAE:
    """A VAE whose standardised coordinates are far from the raw ones."""
    torch.manual_seed(1)
    vae = VAE(32, 4, 1 / 64).eval()
    vae.shift.copy_(torch.randn(4))
    vae.transform.copy_(torch.randn(4, 4) + 3 * torch.eye(4))
    return vae


def test_encode_and_decode_use_the_same_affine_map_and_log_variances_stay_finite(mapped: VAE) -> None:
    """To float32 rounding through a 4x4 matrix of condition number below 10."""
    images, noise = torch.rand(5, 1, 32, 32), torch.randn(5, 4)
    with torch.no_grad():
        output, mean, log_variance = mapped(images, noise)
        standardised = mapped.encode(images)
        torch.testing.assert_close(mapped.shift + standardised @ mapped.transform.T, mean, atol=1e-5, rtol=1e-5)
        sampled = mapped.encode(images, noise)
        raw = mean + noise * (log_variance / 2).exp()
        torch.testing.assert_close(mapped.shift + sampled @ mapped.transform.T, raw, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mapped.decode(sampled), output, atol=1e-5, rtol=1e-5)
        assert (standardised - mean).abs().max() > 0.1
    assert {"shift", "transform"} <= mapped.state_dict().keys(), "the map is saved with the weights"
    mapped.encoder.log_variance.bias.data.fill_(1e6)
    with torch.no_grad():
        assert mapped(images, noise)[2].max() == 10, "finite whatever the weights"


@pytest.mark.parametrize("size", [0, 16, 100, 33])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ModelError, match=f"expected a multiple of 32; got {size}"):
        VAE(size, 4, 1 / 64)
