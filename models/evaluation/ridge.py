"""Cross-fitted ridge regression from normal equations, gathered fold by fold and chunk by chunk in one pass.

The folds give, without another pass, the penalty by cross-validation and a prediction of each row by a fit that has not
seen it: such predictions do not carry a fit's own errors into what is learned from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

FloatArray = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-6, 3))  # of standardised features, per row; then infinite: no slope
CONSTANT = 1e-12  # of the largest variance: a feature that varies less gets no slope
JITTER = 1e-10  # added to every penalty: collinear features stay solvable


def row_chunks(n: int, size: int = 20_000) -> Iterator[slice]:
    """Slices of ``n`` rows, at most ``size`` each: what is in memory at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@dataclass(frozen=True, eq=False)
class Linear:
    """x → intercept + x · weights: ``intercept`` (T,), ``weights`` (F, T)."""

    intercept: FloatArray
    weights: FloatArray

    def __call__(self, features: ArrayLike) -> FloatArray:
        """Predictions (n, T) of features (n, F), an array or a view of a file, which is read in chunks."""
        rows = np.asarray(features)
        out = np.empty((len(rows), len(self.intercept)))
        for part in row_chunks(len(rows)):
            out[part] = rows[part].astype(np.float64) @ self.weights
        return np.add(out, self.intercept, out=out)


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
        for part in row_chunks(len(rows)):
            for fold, fit in enumerate(self.without):
                chosen = np.flatnonzero(folds[part] == fold)
                out[part.start + chosen] = fit(rows[part][chosen])
        return out


class NormalEquations:
    """Sums of (1, x)(1, x)ᵀ ⊗ W and of (1, x) ⊗ u over rows, one set per fold.

    A row has features x, targets y, an information matrix W of the targets and a score u = W·y: the solution is the
    maximum of a Gaussian likelihood whose mean is linear in x. It needs no inverse of W, and a row that carries little
    information on its targets, in some direction or in all, has little weight. Without information, W = I: ordinary
    ridge regression, in which every target has its own penalty. With it, all targets share one penalty.

    Args:
        features: number F of features.
        targets: number T of targets.
        folds: number of folds, at least 2.
        informed: whether rows come with information matrices.
    """

    def __init__(self, features: int, targets: int, folds: int, *, informed: bool = False) -> None:
        coupled = targets if informed else 1  # targets solved for together; the other columns share their matrix
        self.left = np.zeros((folds, 1 + features, coupled, 1 + features, coupled))
        self.right = np.zeros((folds, 1 + features, coupled, targets // coupled))

    def add(
        self, features: ArrayLike, score: ArrayLike, folds: NDArray[np.int64],
        information: NDArray[np.floating] | None = None,
    ) -> None:  # fmt: skip
        """Add rows: features (n, F), scores (n, T), the fold (n,) of each row, and the information (n, T, T).

        Without information the scores are the targets themselves.
        """
        x, u = np.asarray(features, np.float64), np.asarray(score, np.float64)
        for fold, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            chosen = folds == fold
            rows = np.concatenate([np.ones((int(chosen.sum()), 1)), x[chosen]], axis=1)
            right += (rows.T @ u[chosen]).reshape(right.shape)
            if information is None:
                left[:, 0, :, 0] += rows.T @ rows
                continue
            for a, b in np.ndindex(information.shape[1:]):
                left[:, a, :, b] += (rows * information[chosen, a, b, None]).T @ rows

    def solve(self, penalties: tuple[float, ...] = PENALTIES) -> CrossFitted:
        """The fits, with the penalty that predicts best across folds; no slope at all is one of the choices.

        Penalties are of features scaled to variance 1, in units of the information of all rows.
        """
        left, right = self.left.sum(0), self.right.sum(0)
        choices, systems = (*penalties, np.inf), []
        errors = np.zeros((len(choices), right.shape[2]))  # Σ (y - prediction)ᵀ W (y - prediction), but for Σ yᵀ W y
        for own_left, own_right in zip(self.left, self.right, strict=True):
            systems.append(_Centred(left - own_left, right - own_right))
            size = own_left.shape[0] * own_left.shape[1]
            for index, penalty in enumerate(choices):
                fit = systems[-1].solve(penalty).reshape(size, -1)
                errors[index] += (fit * (own_left.reshape(size, size) @ fit - 2 * own_right.reshape(size, -1))).sum(0)
        best = np.array(choices)[errors.argmin(0)]
        whole, *without = (system.solve_each(best) for system in (_Centred(left, right), *systems))
        return CrossFitted(whole, tuple(without), np.repeat(best, right.shape[1]))

    def solve_fixed(self, penalty: float) -> CrossFitted:
        """The fit of all rows, and none without a fold, with a penalty on every coefficient of features as they are."""
        left, right = self.left.sum(0)[:, 0, :, 0], self.right.sum(0)[:, 0]
        fit = np.linalg.solve(left + penalty * np.eye(len(left)), right)
        return CrossFitted(Linear(fit[0], fit[1:]), (), np.full(right.shape[1], penalty))


class _Centred:
    """One set of sums with the intercept eliminated and the features scaled to variance 1."""

    def __init__(self, left: FloatArray, right: FloatArray) -> None:
        self.shape, coupled, self.information = right.shape, right.shape[1], left[0, :, 0]
        weight = np.einsum("iaja->ij", left)
        variance = np.diag(weight)[1:] / weight[0, 0] - (weight[0, 1:] / weight[0, 0]) ** 2
        usable = variance > CONSTANT * variance.max(initial=0.0) + 1e-300
        self.kept = 1 + np.flatnonzero(usable)
        self.scale = np.repeat(1 / np.sqrt(variance[usable]), coupled)[:, None]
        size = len(self.scale)
        first = left[self.kept][:, :, 0].reshape(size, coupled) * self.scale
        self.mean_y = np.linalg.solve(self.information, right[0])
        self.mean_x = np.linalg.solve(self.information, first.T)
        gram = left[self.kept][:, :, self.kept].reshape(size, size)
        self.gram = gram * self.scale * self.scale.T - first @ self.mean_x
        self.cross = right[self.kept].reshape(size, -1) * self.scale - first @ self.mean_y

    def solve(self, penalty: float) -> FloatArray:
        """Intercept and weights, of the shape of the right side."""
        fit = np.zeros(self.shape)
        fit[0] = self.mean_y
        if len(self.kept) and np.isfinite(penalty):
            ridge = (penalty + JITTER) * np.kron(np.eye(len(self.kept)), self.information)
            slope = cho_solve(cho_factor(self.gram + ridge), self.cross)
            fit[0] -= self.mean_x @ slope
            fit[self.kept] = (slope * self.scale).reshape(len(self.kept), *self.shape[1:])
        return fit

    def solve_each(self, penalties: FloatArray) -> Linear:
        fits = {penalty: self.solve(penalty) for penalty in set(penalties.tolist())}
        fit = np.stack([fits[penalty][:, :, i] for i, penalty in enumerate(penalties.tolist())], axis=2)
        fit = fit.reshape(self.shape[0], -1)
        return Linear(fit[0], fit[1:])


def fold_of(ids: ArrayLike, folds: int) -> NDArray[np.int64]:
    """The fold of each subject, (n,): by its id alone, neighbours apart."""
    return np.asarray(ids, np.int64) % folds


def cross_fit(features: NDArray[np.floating], targets: FloatArray, ids: ArrayLike, folds: int) -> CrossFitted:
    """Regression of targets (n, T) on features (n, F) of subjects ``ids`` (n,), which decide the folds.

    Features may be a view of a file: they are read in chunks.
    """
    equations, fold = NormalEquations(features.shape[1], targets.shape[1], folds), fold_of(ids, folds)
    for rows in row_chunks(len(features)):
        equations.add(features[rows], targets[rows], fold[rows])
    return equations.solve()
