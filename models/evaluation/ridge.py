"""Ridge regression from normal equations, gathered fold by fold and chunk by chunk in one pass over any rows.

The folds give, without another pass, the penalty by cross-validation and predictions for each row by a fit that has not
seen it. What is learned from such cross-fitted predictions carries no feedback of a fit's own errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

FloatArray = NDArray[np.float64]

CHUNK = 20_000  # rows in memory at a time
PENALTIES = tuple(10.0**power for power in range(-6, 3))  # of standardised features, per row; beyond these: no slope


@dataclass(frozen=True, eq=False)
class Linear:
    """x → intercept + x · weights: ``intercept`` (T,), ``weights`` (F, T)."""

    intercept: FloatArray
    weights: FloatArray

    def __call__(self, features: ArrayLike) -> FloatArray:
        """Predictions (n, T) of features (n, F), an array or a view of a file, which is read in chunks."""
        rows = np.asarray(features)
        out = np.empty((len(rows), len(self.intercept)))
        for begin in range(0, len(rows), CHUNK):
            out[begin : begin + CHUNK] = rows[begin : begin + CHUNK].astype(np.float64) @ self.weights
        out += self.intercept
        return out


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A fit to all rows, and one per fold that has not seen its rows; ``penalties`` (T,), infinite for no slope."""

    whole: Linear
    without: tuple[Linear, ...]
    penalties: FloatArray

    def out_of_fold(self, features: ArrayLike, folds: NDArray[np.int64]) -> FloatArray:
        """Prediction (n, T) of each row by the fit that has not seen its fold, (n,)."""
        rows = np.asarray(features)
        out = np.empty((len(rows), len(self.penalties)))
        for begin in range(0, len(rows), CHUNK):
            part, fold_of_part = rows[begin : begin + CHUNK], folds[begin : begin + CHUNK]
            for fold, fit in enumerate(self.without):
                chosen = np.flatnonzero(fold_of_part == fold)
                out[begin + chosen] = fit(part[chosen])
        return out


class NormalEquations:
    """Sums of outer products of (1, features, targets), one set per fold.

    Args:
        features: number F of features.
        targets: number T of targets.
        folds: number of folds, at least 2.
    """

    def __init__(self, features: int, targets: int, folds: int) -> None:
        self.features, self.targets = features, targets
        size = 1 + features + targets
        self.sums = np.zeros((folds, size, size))

    def add(self, features: ArrayLike, targets: ArrayLike, folds: NDArray[np.int64]) -> None:
        """Take in rows: features (n, F), targets (n, T), and the fold (n,) that each row belongs to."""
        x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
        for fold in range(len(self.sums)):
            chosen = folds == fold
            rows = np.concatenate([np.ones((int(chosen.sum()), 1)), x[chosen], y[chosen]], axis=1)
            self.sums[fold] += rows.T @ rows

    def solve(self, penalties: tuple[float, ...] = PENALTIES) -> CrossFitted:
        """The fits, each target with the penalty that predicts it best across folds; no slope at all is one choice."""
        total = self.sums.sum(0)
        present = [fold for fold in self.sums if fold[0, 0] > 0]
        choices = (*penalties, np.inf)
        errors = np.zeros((len(choices), self.targets))
        for fold in present:
            rest = _Centred(total - fold, self.features)
            for index, penalty in enumerate(choices):
                errors[index] += _squared_error(fold, rest.solve(penalty), self.features)
        best = np.array([choices[index] for index in errors.argmin(0)])
        without = tuple(_Centred(total - fold, self.features).solve_each(best) for fold in self.sums)
        return CrossFitted(_Centred(total, self.features).solve_each(best), without, best)


class _Centred:
    """One set of sums as covariances, features scaled to variance 1."""

    def __init__(self, sums: FloatArray, features: int) -> None:
        self.n = max(float(sums[0, 0]), 1.0)
        mean = sums[0, 1:] / self.n
        covariance = sums[1:, 1:] / self.n - np.outer(mean, mean)
        self.mean_x, self.mean_y = mean[:features], mean[features:]
        spread = np.sqrt(np.clip(np.diag(covariance)[:features], 0.0, None))
        usable = spread > 1e-9 * (spread.max(initial=0.0) + 1e-300)
        self.scale = np.where(usable, 1.0 / np.where(usable, spread, 1.0), 0.0)  # a constant feature says nothing
        self.gram = covariance[:features, :features] * np.outer(self.scale, self.scale)
        self.cross = covariance[:features, features:] * self.scale[:, None]

    def solve(self, penalty: float) -> Linear:
        if np.isinf(penalty):
            weights = np.zeros_like(self.cross)
        else:
            ridge = self.gram + (penalty + 1e-10) * np.eye(len(self.gram))
            weights = cho_solve(cho_factor(ridge), self.cross) * self.scale[:, None]
        return Linear(self.mean_y - self.mean_x @ weights, weights)

    def solve_each(self, penalties: FloatArray) -> Linear:
        fits = {penalty: self.solve(penalty) for penalty in set(penalties.tolist())}
        columns = [fits[penalty] for penalty in penalties.tolist()]
        intercept = np.array([fit.intercept[i] for i, fit in enumerate(columns)])
        return Linear(intercept, np.stack([fit.weights[:, i] for i, fit in enumerate(columns)], axis=1))


def _squared_error(sums: FloatArray, fit: Linear, features: int) -> FloatArray:
    """Σ (y - prediction)² of the rows behind ``sums``, per target."""
    slope = np.concatenate([-fit.intercept[None], -fit.weights, np.eye(len(fit.intercept))])
    return np.asarray(np.einsum("it,ij,jt->t", slope, sums, slope))


def fold_of(ids: ArrayLike, folds: int) -> NDArray[np.int64]:
    """The fold of each subject, (n,): by its id alone, neighbours apart."""
    return np.asarray(ids, np.int64) % folds


def cross_fit(features: NDArray[np.floating], targets: FloatArray, ids: ArrayLike, folds: int) -> CrossFitted:
    """Regression of targets (n, T) on features (n, F) of subjects ``ids`` (n,), which decide the folds.

    Features may be a view of a file: they are read in chunks.
    """
    equations, fold = NormalEquations(features.shape[1], targets.shape[1], folds), fold_of(ids, folds)
    for begin in range(0, len(features), CHUNK):
        rows = slice(begin, begin + CHUNK)
        equations.add(features[rows], targets[rows], fold[rows])
    return equations.solve()
