"""Ridge regression of several targets whose rows carry an information matrix each, cross-fitted.

Row i has features x, a score u = W·y and the information W of its targets y: the maximum of a Gaussian likelihood whose
mean is linear in x. Unlike a regression of y itself, it needs no inverse of W, and a row that says little about its
targets, in some direction or in all, has little to say in the fit. Everything is gathered in one pass over the rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.models.evaluation.ridge import PENALTIES, CrossFitted, Linear

FloatArray = NDArray[np.float64]


class WeightedEquations:
    """Sums of (1, x)(1, x)' ⊗ W and of (1, x) ⊗ u, one set per fold.

    Args:
        features: number F of features.
        targets: number T of targets.
        folds: number of folds, at least 2.
    """

    def __init__(self, features: int, targets: int, folds: int) -> None:
        self.left = np.zeros((folds, 1 + features, targets, 1 + features, targets))
        self.right = np.zeros((folds, 1 + features, targets))

    def add(self, features: ArrayLike, score: FloatArray, information: ArrayLike, folds: NDArray[np.int64]) -> None:
        """Take in rows: features (n, F), scores (n, T), information (n, T, T), and the fold (n,) of each row."""
        x = np.asarray(features, np.float64)
        rows = np.concatenate([np.ones((len(x), 1)), x], axis=1)
        for fold in range(len(self.left)):
            chosen = folds == fold
            inside, weights = rows[chosen], np.asarray(information, np.float64)[chosen]
            self.right[fold] += inside.T @ score[chosen]
            for a in range(weights.shape[1]):
                for b in range(weights.shape[2]):
                    self.left[fold, :, a, :, b] += (inside * weights[:, a, b, None]).T @ inside

    def solve(self, penalties: tuple[float, ...] = PENALTIES) -> CrossFitted:
        """The fits, with the penalty of all targets that predicts best across folds; no slope at all is one choice.

        Penalties are of features scaled to variance 1, in units of the information of all rows.
        """
        left, right = self.left.sum(0), self.right.sum(0)
        choices, errors = (*penalties, np.inf), []
        for penalty in choices:
            error = 0.0
            for own_left, own_right in zip(self.left, self.right, strict=True):
                fit = _solved(left - own_left, right - own_right, penalty)
                error += float(np.einsum("ia,iajb,jb->", fit, own_left, fit) - 2 * (fit * own_right).sum())
            errors.append(error)
        best = choices[int(np.argmin(errors))]
        without = (
            _solved(left - own_left, right - own_right, best)
            for own_left, own_right in zip(self.left, self.right, strict=True)
        )
        fits = tuple(Linear(fit[0], fit[1:]) for fit in (_solved(left, right, best), *without))
        return CrossFitted(fits[0], fits[1:], np.full(right.shape[1], best))


def _solved(left: FloatArray, right: FloatArray, penalty: float) -> FloatArray:
    """Intercept and weights (1 + F, T)."""
    weight = np.einsum("iaja->ij", left)  # of each pair of features, over targets
    mean = weight[0] / max(weight[0, 0], 1e-300)
    variance = np.diag(weight) / max(weight[0, 0], 1e-300) - mean**2
    usable = variance > 1e-12 * variance.max(initial=0.0) + 1e-300  # a constant feature says nothing
    usable[0] = False
    kept = np.flatnonzero(usable) if np.isfinite(penalty) else np.array([], dtype=np.int64)
    kept = np.concatenate([[0], kept])
    matrix, information = left[kept][:, :, kept], left[0, :, 0]  # copies
    for place, feature in enumerate(kept[1:], start=1):
        matrix[place, :, place] += (penalty + 1e-10) * variance[feature] * information
    size = matrix.shape[0] * matrix.shape[1]
    fit = np.zeros_like(right)
    fit[kept] = np.linalg.solve(matrix.reshape(size, size), right[kept].ravel()).reshape(len(kept), -1)
    return fit
