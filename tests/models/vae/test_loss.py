"""The VAE's loss: closed forms where there are some, an independent library or a second way where not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift
from scipy.stats import spearmanr
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import conv2d, max_pool2d
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.training.tensor_files import save_tensors
from image_longitudinal.models.vae import loss as module
from image_longitudinal.models.vae.loss import VGGDistance, make_perception, structural_distance
from tests.models.conftest import phantoms


def test_kl_is_the_closed_form_per_dimension_and_free_bits_are_its_least() -> None:
    mean, log_variance = torch.randn(50, 4), torch.randn(50, 4)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(module.kl_per_dimension(mean, log_variance), expected)
    assert torch.equal(module.kl_per_dimension(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(3))
    # Free bits: each dimension counts as at least so much, and has no gradient below that.
    kl = torch.tensor([0.01, 0.05, 0.3], requires_grad=True)
    counted = module.kl_with_free_bits(kl, 0.1)
    counted.backward()
    assert counted.item() == pytest.approx(0.1 + 0.1 + 0.3)
    assert kl.grad is not None
    assert kl.grad.tolist() == [0, 0, 1]
    assert module.kl_with_free_bits(kl, 0).item() == pytest.approx(0.36)


@given(st.integers(0, 200), st.integers(0, 100), st.floats(0, 10))
def test_beta_rises_linearly_and_stays(step: int, warmup: int, final: float) -> None:
    expected = final if step + 1 >= warmup else final * (step + 1) / warmup
    assert module.kl_weight(step, warmup, final) == pytest.approx(expected)


def test_the_pixel_term_is_a_third_of_400_times_the_squared_error() -> None:
    images = torch.rand(3, 1, 64, 64)
    assert module.reconstruction_loss(images, images, structural_distance).item() == pytest.approx(0, abs=1e-6)
    black, grey = torch.zeros(2, 1, 32, 32), torch.full((2, 1, 32, 32), 0.1)
    loss = module.reconstruction_loss(grey, black, lambda a, b: torch.tensor(0.0))
    assert loss.item() == pytest.approx(400 / 3 * 0.01)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 160])
def test_the_structural_distance_lies_between_0_and_1_and_has_a_gradient(size: int) -> None:
    first, second = torch.rand(2, 1, size, size, requires_grad=True), torch.rand(2, 1, size, size)
    distance = structural_distance(first, second)
    assert 0 < distance < 1
    distance.backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.abs().max() > 0
    torch.testing.assert_close(structural_distance(second, first), distance)  # symmetric
    opposite = (1 - second).requires_grad_()
    farthest = structural_distance(opposite, second)
    farthest.backward()
    assert farthest > 0.9
    assert opposite.grad is not None
    assert opposite.grad.isfinite().all()


def degraded(image: np.ndarray) -> list[np.ndarray]:
    """Blur, noise, a shift, loss of contrast and of light, each in four strengths."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(image.shape)
    versions = [gaussian_filter(image, sigma) for sigma in (0.5, 1, 2, 4)]
    versions += [image + sd * noise for sd in (0.02, 0.05, 0.1, 0.2)]
    versions += [shift(image, (by, 0), mode="nearest") for by in (1, 2, 4, 8)]
    versions += [image.mean() + share * (image - image.mean()) for share in (0.9, 0.7, 0.5, 0.2)]
    versions += [image * factor for factor in (0.95, 0.85, 0.7, 0.5)]
    return [version.clip(0, 1) for version in versions]


def test_the_structural_distance_orders_images_as_ms_ssim_does() -> None:
    """Rank correlation with torchmetrics over 20 ways to spoil each of three phantoms (176 pixels: its five scales)."""
    for image in phantoms(3, 176, 3) / 255.0:
        target = torch.from_numpy(image)[None, None].float()
        ours, theirs = [], []
        for version in degraded(image):
            output = torch.from_numpy(version)[None, None].float()
            ours.append(structural_distance(output, target).item())
            theirs.append(1 - multiscale_structural_similarity_index_measure(output, target, data_range=1.0).item())
        assert spearmanr(ours, theirs).statistic > 0.95
        # Boxes in place of a Gaussian window: not the same numbers, but near.
        np.testing.assert_allclose(ours, theirs, atol=0.15)


CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A file as torchvision's VGG16 would be saved, with random weights and layers we do not read."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index, (inputs, outputs) in CONVOLUTIONS.items():
        scale = (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    tensors["features.17.weight"] = torch.zeros(512, 256, 3, 3)
    tensors["classifier.0.bias"] = torch.zeros(8)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_tensors(path, tensors)
    return path, tensors


def test_the_vgg_distance_is_the_originals_and_passes_gradients_to_the_image_only(
    vgg: tuple[Path, dict[str, Tensor]],
) -> None:
    """Against the formula written with plain convolutions; float32 sums in another order."""
    path, weights = vgg

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        x = (images.repeat(1, 3, 1, 1) - 0.449) / 0.226
        after = {}
        for index in CONVOLUTIONS:
            if index in (5, 10):
                x = max_pool2d(x, 2)
            x = conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1).relu()
            after[index] = x
        return after[2], after[14]

    output, target = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    (shallow, deep), (shallow_target, deep_target) = features(output), features(target)
    expected = 6.25 / 3 * (shallow - shallow_target).square().mean() + (deep - deep_target).square().mean() / 3
    perception = make_perception(path)
    torch.testing.assert_close(perception(output, target), expected, rtol=1e-4, atol=1e-6)
    assert perception(target, target).item() == 0
    output.requires_grad_()
    network = VGGDistance(path)
    network(output, target).backward()
    assert output.grad is not None
    assert output.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("change", ["missing", "shape", "names"])
def test_other_weights_are_refused(vgg: tuple[Path, dict[str, Tensor]], tmp_path: Path, change: str) -> None:
    tensors = dict(vgg[1])
    if change == "missing":
        del tensors["features.14.bias"]
    elif change == "shape":
        tensors["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    else:
        tensors = {key.removeprefix("features."): value for key, value in tensors.items()}
    save_tensors(tmp_path / "other.safetensors", tensors)
    with pytest.raises(ModelError, match=r"not VGG16 weights .*other\.safetensors.*torchvision"):
        VGGDistance(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"none\.safetensors"):
        make_perception(tmp_path / "none.safetensors")
    assert make_perception(None) is structural_distance, "without weights"
