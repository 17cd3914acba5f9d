"""The VAE's loss: reconstruction (pixels and perception) plus weighted Kullback-Leibler divergence.

The original's reconstruction is ⅓·400·MSE(pixels) + ⅓·6.25·MSE(VGG16 features after conv1_2) + ⅓·MSE(after conv3_3).
Without the VGG16 weights, the two feature terms are replaced by ⅓·3·(1 - MS-SSIM) (Wang, Simoncelli & Bovik 2003),
which needs no weights; the model's card names the loss that it was trained with.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, mse_loss

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.training.tensor_files import load_tensors

PIXEL_WEIGHT = 400 / 3
SHALLOW_WEIGHT = 6.25 / 3
DEEP_WEIGHT = 1 / 3
MS_SSIM_WEIGHT = 3 / 3  # at convergence it then weighs as much as the pixel term (measured at 64x64)
GREY_MEAN, GREY_SD = 0.449, 0.226  # ImageNet's means and standard deviations averaged over the colours

# Exponent of each scale, from Wang et al. 2003; with fewer scales the first ones are kept and rescaled to sum 1.
_MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

Perception = Callable[[Tensor, Tensor], Tensor]


def kl_per_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, averaged over the batch: (B, D), (B, D) → (D,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)


def kl_weight(step: int, warmup_steps: int, final: float) -> float:
    """β: rises linearly from 0 to ``final`` over the first ``warmup_steps`` steps, then is constant."""
    return final * min(1.0, (step + 1) / max(warmup_steps, 1))


def kl_with_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """Sum of the KL per latent dimension (D,), each counted as at least ``free_bits`` nats: a scalar.

    Below that a dimension's KL has no gradient, so the loss does not collapse it (Kingma et al. 2016, "free bits").
    """
    return kl.clamp(min=free_bits).sum()


def reconstruction_loss(output: Tensor, target: Tensor, perception: Perception) -> Tensor:
    """Weighted pixel and perceptual distance of two image batches (B, 1, H, W), values 0 to 1."""
    return PIXEL_WEIGHT * mse_loss(output, target) + perception(output, target)


def structural_distance(output: Tensor, target: Tensor) -> Tensor:
    """⅓·3·(1 - MS-SSIM) of images (B, 1, H, W), values 0 to 1: a scalar, 0 to 1.

    Uses as many of the five scales as fit the image (5 from 128 pixels, 4 at 64). The statistics are means over 8x8
    boxes, 4 pixels apart, instead of a dense Gaussian window: forty times cheaper on a CPU, with the same ordering of
    images (tested against torchmetrics). Contrast and structure count at every scale, luminance at the coarsest only,
    as in the paper.
    """
    scales = min(5, max(1, min(output.shape[-2:]).bit_length() - 3))
    exponents = [exponent / sum(_MS_SSIM_EXPONENTS[:scales]) for exponent in _MS_SSIM_EXPONENTS[:scales]]
    similarity = torch.ones(len(output), device=output.device)
    for scale, exponent in enumerate(exponents):
        if scale:
            output, target = avg_pool2d(output, 2), avg_pool2d(target, 2)
        luminance, structure = _ssim_terms(output, target)
        term = structure * luminance if scale + 1 == scales else structure
        similarity = similarity * term.mean((1, 2, 3)).clamp(min=1e-4) ** exponent
    return MS_SSIM_WEIGHT * (1 - similarity.mean())


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance term and contrast-structure term of SSIM in boxes, for values in 0 to 1."""
    mean_a, mean_b, square_a, square_b, product = (
        avg_pool2d(x, 8, stride=4) for x in (a, b, a.square(), b.square(), a * b)
    )
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    return luminance, (2 * (product - mean_a * mean_b) + c2) / (variances + c2)


class VGGDistance(nn.Module):
    """The original's perceptual terms: squared distance of VGG16 features after conv1_2 and conv3_3.

    ``weights`` is a safetensors file with torchvision's names (``features.0.weight``, ...), of which only the first
    seven convolutions are read.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        features = nn.Sequential(*layers)
        tensors, _ = load_tensors(weights)
        try:
            features.load_state_dict({key: tensors[f"features.{key}"] for key in features.state_dict()})
        except (KeyError, RuntimeError) as error:
            expected = "torchvision's names and shapes (features.0.weight, ...)"
            raise ModelError("not VGG16 weights", where=weights, expected=expected, got=error) from error
        self.shallow, self.deep = features[:4], features[4:]
        self.requires_grad_(False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Weighted distance of two batches (B, 1, H, W), values 0 to 1: a scalar."""
        pair = torch.cat([output, target]).expand(-1, 3, -1, -1)
        shallow = self.shallow((pair - GREY_MEAN) / GREY_SD)
        deep = self.deep(shallow)
        return SHALLOW_WEIGHT * mse_loss(*shallow.chunk(2)) + DEEP_WEIGHT * mse_loss(*deep.chunk(2))


def make_perception(vgg_weights: Path | None, device: torch.device | str = "cpu") -> Perception:
    """The original's VGG16 distance on ``device`` if its weights are given, else the structural distance."""
    return structural_distance if vgg_weights is None else VGGDistance(vgg_weights).eval().to(device)
