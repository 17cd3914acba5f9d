"""Measures of two sets of images in a space of features, each with bootstrap weights for the images.

All are functions of moments or of pairs of images, so a space holds the matrices of all images once, and a set is a
vector of indices into them.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.quality.features import Matrix
from image_longitudinal.models.quality.fidelity import NEIGHBOURS
from image_longitudinal.models.quality.judge.resampling import Index, Vector

COMPONENTS = 32  # principal components for the Fréchet distance: a few hundred images carry no more
FOLDS = 5  # of the classifier
PENALTY = 0.001  # of the classifier's weights, in units of its inputs' total variance


class WeightedSet(NamedTuple):
    """Images as rows (n,) of a space, and the weight of each (n,)."""

    rows: Index
    weight: Vector

    @classmethod
    def of(cls, rows: Index) -> Self:
        """All images with weight 1."""
        return cls(rows, np.ones(len(rows)))


class FeatureSpace(NamedTuple):
    """``low`` (n, 32): principal components of real images; ``distance`` (n, n) in them.

    ``gram`` (n, n): mean products of standardised features.
    """

    low: Matrix
    distance: Matrix
    gram: Matrix

    @classmethod
    def of(cls, features: Matrix, real: Index) -> Self:
        """The space of all images, with centre, axes and scale of the ``real`` ones; features are (n, F)."""
        fitted = features[real]
        centre, sd = fitted.mean(0), fitted.std(0)
        axes = np.linalg.svd(fitted - centre, full_matrices=False)[2][:COMPONENTS]
        low = (features - centre) @ axes.T
        alive = sd > 1e-3 * sd.max()  # a feature that is nearly constant on scans would outweigh all others
        standard = (features[:, alive] - centre[alive]) / sd[alive]
        squared = np.square(low).sum(1)
        distance = np.sqrt(np.maximum(squared[:, None] + squared - 2 * low @ low.T, 0))
        return cls(low, distance, standard @ standard.T / alive.sum())


def frechet(space: FeatureSpace, a: WeightedSet, b: WeightedSet) -> float:
    """Fréchet distance of normal distributions fitted to two sets' components (Heusel et al. 2017)."""
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(space.low[s.rows], s.weight) for s in (a, b))
    cross = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel(space: FeatureSpace, a: WeightedSet, b: WeightedSet) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x·y/F + 1)³ (Bińkowski et al. 2018, "KID")."""

    def within(s: WeightedSet) -> float:
        values = (space.gram[np.ix_(s.rows, s.rows)] + 1) ** 3
        np.fill_diagonal(values, 0)  # also an image drawn twice is never compared with itself
        return float(s.weight @ values @ s.weight / (s.weight.sum() ** 2 - np.square(s.weight).sum()))

    between = (space.gram[np.ix_(a.rows, b.rows)] + 1) ** 3
    return within(a) + within(b) - 2 * float(a.weight @ between @ b.weight / (a.weight.sum() * b.weight.sum()))


class Neighbourhoods(NamedTuple):
    """Terms of each image: ``inside`` and ``density`` of generated ones (n,), the others of real ones (m,).

    ``inside`` any real ball; in how many (``density``, over k). ``recalled``: inside a generated ball; ``covered``:
    with a generated image in its own ball.
    """

    inside: Vector
    density: Vector
    recalled: Vector
    covered: Vector


def neighbourhoods(space: FeatureSpace, generated: Index, real: Index) -> Neighbourhoods:
    """Terms whose means are precision, density, recall and coverage (Kynkäänniemi et al. 2019, Naeem et al. 2020)."""
    k = min(NEIGHBOURS, len(real) - 1, len(generated) - 1)
    distance = space.distance[np.ix_(real, generated)]
    real_radius, generated_radius = (
        np.partition(space.distance[np.ix_(s, s)], k, axis=1)[:, k] for s in (real, generated)
    )
    in_real = distance <= real_radius[:, None]
    return Neighbourhoods(
        inside=in_real.any(0).astype(float),
        density=in_real.sum(0) / k,
        recalled=(distance <= generated_radius).any(1).astype(float),
        covered=(distance.min(1) <= real_radius).astype(float),
    )


class Discrimination(NamedTuple):
    """``larger`` (n, m): whether image i of one set ranks above j of the other, for those in the ``same`` fold."""

    larger: Matrix
    same: NDArray[np.bool_]

    def auc(self, a_weight: Vector, b_weight: Vector) -> float:
        """Area under the curve with these weights of the images; 0.5 without any pair in one fold."""
        pairs = a_weight @ self.same @ b_weight
        return float(a_weight @ self.larger @ b_weight / pairs) if pairs else 0.5


def discriminate(
    space: FeatureSpace, a: Index, b: Index, a_groups: NDArray[np.str_], b_groups: NDArray[np.str_], seed: int
) -> Discrimination:
    """Tell two sets of images apart by ridge regression on standardised features, cross-fitted.

    The groups (patients) of each set are kept together in one of five folds; images are compared within a fold.
    """
    index = np.concatenate([a, b])
    label = np.concatenate([np.ones((len(a), 1)), -np.ones((len(b), 1))])
    fold = np.concatenate([folds_of(groups, seed + i) for i, groups in enumerate((a_groups, b_groups))])
    scores = np.zeros(len(index))
    for one in range(FOLDS):
        test, train = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        if len(test) and len(np.unique(label[train])) == 2:
            scores[test] = ridge_scores(space.gram, index[train], label[train], index[test])[:, 0]
    first, second = scores[: len(a)], scores[len(a) :]
    same = fold[: len(a), None] == fold[None, len(a) :]
    larger = (first[:, None] > second) + 0.5 * (first[:, None] == second)
    return Discrimination(np.asarray(larger * same, np.float64), same)


def ridge_scores(gram: Matrix, train: Index, target: Matrix, test: Index) -> Matrix:
    """Ridge regression of ``target`` (m, K) on features with these mean products (n, n): scores of ``test``, (t, K)."""
    inner, cross = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
    centred = inner - inner.mean(0) - inner.mean(1)[:, None] + inner.mean()
    centred[np.diag_indices(len(train))] += PENALTY * np.trace(centred)
    dual = np.linalg.solve(centred, target - target.mean(0))
    return np.asarray((cross - cross.mean(1)[:, None] - inner.mean(0) + inner.mean()) @ dual + target.mean(0))


def folds_of(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """The fold (n,) of each image; a group's images share one."""
    names, member = np.unique(groups, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(names))[member] % FOLDS)


def _moments(values: Matrix, weight: Vector) -> tuple[Vector, Matrix]:
    total = weight.sum()
    mean = weight @ values / total
    centred = values - mean
    return mean, (centred * weight[:, None]).T @ centred / (total - 1)
