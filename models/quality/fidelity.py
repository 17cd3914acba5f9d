"""How real generated images look, each figure beside its floor: real images of some patients against others'.

Distances between sets are biased by the sets' size (Bińkowski et al. 2018), so all compared sets have one size: the
floor then has the same bias as generated against real.
"""

import numpy as np

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.registry.metadata import FidelityFigures, SetFigures

NEIGHBOURS = 5  # k of precision, recall, density and coverage (Naeem et al. 2020)
KID_SUBSET = 100  # images per subset of the kernel distance, fewer where there are fewer
REPEATS = 8  # random subsets that a figure is averaged over


def fidelity_figures(train: Matrix, held_out: Matrix, generated: Matrix, seed: int) -> FidelityFigures:
    """Compare generated images, and training images as the floor, with held-out images of other patients.

    The sets are features (n, F). Each figure is the mean over :data:`REPEATS` subsets of equally many images of each.
    """
    n = min(len(train), len(held_out), len(generated))
    rng = np.random.default_rng(seed)
    sums = np.zeros((2, len(SetFigures.model_fields)))
    for _ in range(REPEATS):
        reference = held_out[rng.permutation(len(held_out))[:n]]
        for row, other in enumerate((generated, train)):
            chosen = other[rng.permutation(len(other))[:n]]
            subset = min(n, KID_SUBSET)
            sums[row] += (
                frechet_distance(chosen, reference),
                kernel_distance(chosen[:subset], reference[:subset]),
                *neighbourhood_fractions(reference, chosen, min(NEIGHBOURS, n - 1)),
            )
    figures, floor = (SetFigures(**dict(zip(SetFigures.model_fields, row, strict=True))) for row in sums / REPEATS)
    return FidelityFigures(n=n, generated=figures, floor=floor)


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


def neighbourhood_fractions(real: Matrix, generated: Matrix, k: int = NEIGHBOURS) -> tuple[float, float, float, float]:
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


def _distances(a: Matrix, b: Matrix) -> Matrix:
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0))


def _radius(points: Matrix, k: int) -> Matrix:
    """Distance of each point to its k-th nearest other, (n,)."""
    return np.asarray(np.partition(_distances(points, points), k, axis=1)[:, k])
