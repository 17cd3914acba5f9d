"""How good generated images are, as numbers, each beside the floor that two parts of the real images give.

Every distance between sets is taken between sets of one size: its bias depends on the size (Bińkowski et al. 2018), and
so the floor, real against other patients' real, carries the same bias as generated against real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from image_longitudinal.models.imaging.grey_images import ImageRows, to_grey_levels, to_unit
from image_longitudinal.models.training.step_random import step_generator
from image_longitudinal.models.vae.augmentation import CROP, augment
from image_longitudinal.models.vae.network import VAE

Matrix = NDArray[np.float64]
Features = Callable[[NDArray[np.uint8]], Matrix]  # images (n, S, S) uint8 → (n, F)

NEIGHBOURS = 5  # k of precision, recall, density and coverage (Naeem et al. 2020)
KID_SUBSET = 100  # images per subset of the kernel distance, fewer where there are fewer
REPEATS = 8  # draws of subsets that a figure is averaged over
MEMORY_SIDE = 64  # pixels a side at which images are compared with training images
BATCH = 256
FIGURES = ("fd", "kid", "precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class SetFigures:
    """Generated against real in one feature space, and ``floor_*``: real against real, of as many images.

    ``fd`` Fréchet distance, ``kid`` squared kernel distance (unbiased: its floor is near 0 and may be below), and the
    shares of Kynkäänniemi et al. 2019 and Naeem et al. 2020, for which more is better.
    """

    n: int
    fd: float
    kid: float
    precision: float
    recall: float
    density: float
    coverage: float
    floor_fd: float
    floor_kid: float
    floor_precision: float
    floor_recall: float
    floor_density: float
    floor_coverage: float

    @property
    def fd_ratio(self) -> float:
        """FD in floors: 1 is as close as other patients are."""
        return self.fd / self.floor_fd


@dataclass(frozen=True)
class MemoryFigures:
    """Distance to the nearest training image, root mean squared grey levels (0 to 1): 1st percentile and median."""

    generated_first_percentile: float
    held_out_first_percentile: float
    generated_median: float
    held_out_median: float

    @property
    def nearest_ratio(self) -> float:
        """First percentiles, generated over held out: below 1, generated images come closer than new patients do."""
        return self.generated_first_percentile / self.held_out_first_percentile


def frechet_distance(a: Matrix, b: Matrix) -> float:
    """Fréchet distance of two normal distributions fitted to features (n, F), (m, F) (Heusel et al. 2017).

    |μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½); the trace of the root is that of the singular values of √C₁ √C₂, which
    needs no complex arithmetic and holds for rank-deficient covariances.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    first, second = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()  # = tr (C₁C₂)^½
    return float(np.square(mean_a - mean_b).sum() + np.square(first).sum() + np.square(second).sum() - 2 * cross)


def kernel_distance(a: Matrix, b: Matrix) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x·y/F + 1)³ (Bińkowski et al. 2018, "KID")."""
    n, m, scale = len(a), len(b), a.shape[1]
    within_a, within_b, between = ((x @ y.T / scale + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return float(
        (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
        + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
        - 2 * between.mean()
    )


def neighbourhood_shares(real: Matrix, generated: Matrix, k: int = NEIGHBOURS) -> tuple[float, float, float, float]:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of two sets of features.

    The sets are (n, F) and (m, F). A point's ball reaches to its k-th nearest neighbour in its own set.
    """
    real_radius, generated_radius = _radius(real, k), _radius(generated, k)
    distance = _distances(real, generated)
    in_real = distance <= real_radius[:, None]
    precision = in_real.any(0).mean()
    recall = (distance <= generated_radius[None]).any(1).mean()
    density = in_real.sum(0).mean() / k
    coverage = (distance.min(1) <= real_radius).mean()
    return float(precision), float(recall), float(density), float(coverage)


def set_figures(train: Matrix, held_out: Matrix, generated: Matrix, seed: int) -> SetFigures:
    """Generated images and training images, both against held-out images of other patients.

    Args:
        train, held_out, generated: features (n, F) of the three sets.
        seed: of the subsets; each figure is the mean of :data:`REPEATS` draws of equally many of each set.
    """
    n = min(len(train), len(held_out), len(generated))
    rng = np.random.default_rng(seed)
    sums = np.zeros((2, 6))
    for _ in range(REPEATS):
        reference = held_out[rng.permutation(len(held_out))[:n]]
        for row, other in enumerate((generated, train)):
            chosen = other[rng.permutation(len(other))[:n]]
            subset = min(n, KID_SUBSET)
            sums[row] += (
                frechet_distance(chosen, reference),
                kernel_distance(chosen[:subset], reference[:subset]),
                *neighbourhood_shares(reference, chosen, min(NEIGHBOURS, n - 1)),
            )
    made, floor = (sums / REPEATS).tolist()
    return SetFigures(**dict(zip(FIGURES, made, strict=True)), **_floors(floor), n=n)


def _floors(values: list[float]) -> dict[str, float]:
    return {f"floor_{name}": value for name, value in zip(FIGURES, values, strict=True)}


def nearest_training_image(images: NDArray[np.uint8], training: ImageRows) -> Matrix:
    """Root mean squared difference (grey 0 to 1) of each image to the training image nearest to it, (n,).

    Training shows each image mirrored or not and at any height, so it is compared in both ways and at three heights;
    at most 64 pixels a side.

    Args:
        images: uint8 (n, S, S), as the generator makes them.
        training: uint8 (m, S, S) of the same size, read a batch at a time.
    """
    own = _small(to_unit(images, "cpu"))
    nearest = torch.full((len(own),), torch.inf)
    square = own.square().sum(1)
    for start in range(0, len(training), BATCH):
        batch = to_unit(training[slice(start, start + BATCH)], "cpu")
        for view in _views(batch):
            other = _small(view)
            squared = square[:, None] + other.square().sum(1)[None] - 2 * own @ other.T
            nearest = torch.minimum(nearest, squared.min(1).values.clamp(min=0))
    return (nearest / own.shape[1]).sqrt().double().numpy()


def memory_figures(generated: NDArray[np.uint8], held_out: NDArray[np.uint8], training: ImageRows) -> MemoryFigures:
    """Whether generated images lie closer to training images than images of new patients do.

    Args:
        generated, held_out: uint8 (n, S, S), views as training shows them (see :func:`training_views`).
        training: uint8 (m, S, S).
    """
    made, new = nearest_training_image(generated, training), nearest_training_image(held_out, training)
    return MemoryFigures(
        *(float(value) for value in (np.percentile(made, 1), np.percentile(new, 1), np.median(made), np.median(new)))
    )


def training_views(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Images as the generator learned to make them: mirrored or not, cropped at a random height; uint8 (n, S, S)."""
    return to_grey_levels(augment(to_unit(images, "cpu"), step_generator(seed, "quality-views", 0)))


def encoder_features(vae: VAE) -> Features:
    """Features of the VAE's own encoder, before its two heads: images (n, S, S) of any size → (n, F)."""

    def features(images: NDArray[np.uint8]) -> Matrix:
        device, size = next(vae.parameters()).device, (vae.image_size, vae.image_size)
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = to_unit(images[start : start + BATCH], device)
            if pixels.shape[-2:] != size:
                pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
            with torch.no_grad():
                parts.append(vae.encoder.features(pixels).pooler_output.flatten(1).cpu())
        return torch.cat(parts).double().numpy()

    return features


def dinov2_features(folder: str) -> Features:
    """Features of a DINOv2 network (Oquab et al. 2024) from a local folder in transformers' layout, (n, F).

    Raises:
        ModelError: the folder holds no such network.
    """
    from image_longitudinal.models.quality.pretrained_features import load_dinov2

    network, size = load_dinov2(folder)

    def features(images: NDArray[np.uint8]) -> Matrix:
        parts = []
        mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        for start in range(0, len(images), 32):
            pixels = to_unit(images[start : start + 32], "cpu").expand(-1, 3, -1, -1)
            pixels = interpolate(pixels, (size, size), mode="bicubic", antialias=True)
            pixels = (pixels - mean[:, None, None]) / sd[:, None, None]
            with torch.no_grad():
                parts.append(network(pixels).pooler_output)
        return torch.cat(parts).double().numpy()

    return features


def as_metrics(figures: SetFigures, memory: MemoryFigures) -> dict[str, float]:
    """The figures that registered versions are compared by (see :mod:`models.registry.promotion`)."""
    return {name: getattr(figures, name) for name in FIGURES} | {"nearest_ratio": memory.nearest_ratio}


def as_record(figures: SetFigures | MemoryFigures) -> dict[str, Any]:
    """Plain JSON values of figures, the ratio among them."""
    ratio = (
        {"fd_ratio": figures.fd_ratio} if isinstance(figures, SetFigures) else {"nearest_ratio": figures.nearest_ratio}
    )
    return {**asdict(figures), **ratio}


def _views(batch: torch.Tensor) -> list[torch.Tensor]:
    size = batch.shape[-1]
    rows = round(size * CROP)
    tops = sorted({0, (size - rows) // 2, size - rows})
    crops = [interpolate(batch[:, :, top : top + rows], (size, size), mode="bilinear", antialias=True) for top in tops]
    return [view for crop in crops for view in (crop, crop.flip(-1))]


def _small(images: torch.Tensor) -> torch.Tensor:
    """Flattened images, (n, pixels), averaged down to at most 64 pixels a side."""
    side = min(MEMORY_SIDE, images.shape[-1])
    return adaptive_avg_pool2d(images, (side, side)).flatten(1)


def _distances(a: Matrix, b: Matrix) -> Matrix:
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0))


def _radius(points: Matrix, k: int) -> Matrix:
    """Distance of each point to its k-th nearest other, (n,)."""
    return np.asarray(np.partition(_distances(points, points), k, axis=1)[:, k])
