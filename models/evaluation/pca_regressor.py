"""Regression of latents on the principal components of images, the features of every later step of an evaluation.

It learns from the latents of training subjects alone: from no outcome, and not which dimensions are random effects.
It is solved from sums gathered in two passes over the images, so its memory does not depend on their number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.ridge import CrossFitted, NormalEquations, fold_of

FloatArray = NDArray[np.float64]
Chunk = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float32]]  # ids (m,), images (m, S, S), latents (m, D)
Chunks = Callable[[], Iterator[Chunk]]

SIDE = 32  # pixels a side that the images are averaged down to: layers stay resolved, speckle averages out
FOLDS = 5


@dataclass(frozen=True, eq=False)
class PCARegressor:
    """Images → estimates of z: a second-order polynomial of their principal components.

    ``centre`` (P,) is the mean image, ``axes`` (P, K) are the whitened principal axes; the first ``products``
    components also enter by their squares and products; ``fits`` map these terms to z.
    """

    centre: FloatArray
    axes: FloatArray
    products: int
    fits: CrossFitted

    def __call__(self, images: NDArray[np.uint8]) -> FloatArray:
        """Estimates of z (n, D) from images (n, S, S) of subjects it was not fitted to."""
        return self.fits.whole(self._terms(images))

    def out_of_fold(self, images: NDArray[np.uint8], ids: NDArray[np.int64]) -> FloatArray:
        """Estimates of z (n, D) from images (n, S, S) of subjects ``ids`` it was fitted to, by fits without them.

        With few subjects the fit to all of them overfits; what is learned from these estimates holds for others too.
        """
        return self.fits.out_of_fold(self._terms(images), fold_of(ids, FOLDS))

    def _terms(self, images: NDArray[np.uint8]) -> FloatArray:
        return polynomial((averaged_down(images) - self.centre) @ self.axes, self.products)


def fit_pca_regressor(
    chunks: Chunks, *, components: int = 96, products: int = 32, penalty: float | None = None
) -> PCARegressor:
    """Fit the regression to training subjects.

    Args:
        chunks: each call iterates over all training subjects again, in the same chunks.
        components: number of principal components kept, at most an eighth of the subjects.
        products: number of components that also enter by products; fewer if that would give more terms than a third
            of the subjects, unless the penalty is fixed.
        penalty: a fixed ridge penalty, without fits for :meth:`PCARegressor.out_of_fold`; by cross-validation if None.
    """
    n, total, gram, targets = 0, np.zeros(()), np.zeros(()), 0
    for _, images, latents in chunks():
        flat, targets = averaged_down(images), latents.shape[1]
        n, total, gram = n + len(flat), total + flat.sum(0), gram + flat.T @ flat
    centre = total / n
    variances, axes = np.linalg.eigh(gram / n - np.outer(centre, centre))
    order = np.argsort(-variances)[: max(2, min(components, n // 8))]
    axes = axes[:, order] / np.sqrt(np.maximum(variances[order], 1e-9 * variances.max()))
    while penalty is None and products > 1 and products * (products + 1) / 2 > n / 3:
        products -= 1
    products = min(products, axes.shape[1])
    equations = NormalEquations(axes.shape[1] + products * (products + 1) // 2, targets, FOLDS)
    for ids, images, latents in chunks():
        terms = polynomial((averaged_down(images) - centre) @ axes, products)
        equations.add(terms, latents, fold_of(ids, FOLDS))
    fits = equations.solve() if penalty is None else equations.solve_fixed(penalty)
    return PCARegressor(centre, axes, products, fits)


def readable(read: FloatArray, latents: NDArray[np.floating], least: float = 0.1) -> NDArray[np.int64]:
    """Latent dimensions that images tell, the best told first: those whose estimates (n, D) of others' fits have an R².

    ``least``: of R²; the best of them is always taken.
    """
    centred = latents - latents.mean(0)
    r2 = 1 - np.square(latents - read).mean(0) / np.square(centred).mean(0)
    order = np.argsort(-r2, kind="stable")
    return order[: max(1, int((r2 >= least).sum()))]


def polynomial(scores: FloatArray, products: int) -> FloatArray:
    """Scores (n, K) with the squares and products of the first ``products`` of them."""
    first = scores[:, :products]
    left, right = np.triu_indices(first.shape[1])
    return np.concatenate([scores, first[:, left] * first[:, right]], axis=1)


def averaged_down(images: NDArray[np.uint8]) -> FloatArray:
    """Images (n, S, S) flattened, averaged down to at most 32 pixels a side, grey 0 to 1: (n, P)."""
    block = max(1, images.shape[1] // SIDE)
    side = images.shape[1] // block
    cropped = images[:, : side * block, : side * block].astype(np.float32)
    small = cropped.reshape(len(images), side, block, side, block).mean((2, 4))
    return small.reshape(len(images), -1).astype(np.float64) / 255
