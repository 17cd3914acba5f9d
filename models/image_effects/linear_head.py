"""g linear in features of images, its weights the maximum of the marginal likelihood under a prior for each feature.

Given what outcomes say (:class:`.learners.Targets`), the log-likelihood is quadratic in the weights, so their posterior
under a normal prior is known. The precisions of that prior are those under which the outcomes are likeliest, weights
integrated out (automatic relevance determination: MacKay 1992, *Bayesian interpolation*; Tipping 2001, *Sparse Bayesian
learning*): features that say nothing are switched off, which a penalty that all features share cannot do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.ridge import row_chunks
from image_longitudinal.models.image_effects.learners import CrossFit, Targets, fold_numbers
from image_longitudinal.models.image_effects.residual_omega import bounded

FloatArray = NDArray[np.float64]

ITERATIONS = 100
SETTLED = 1e-2  # largest change of a log precision, of a feature that is not switched off, that ends the search
OFF = 1e4  # precision, in units of the information of all subjects, of a feature that is switched off
FIRST = 1e-2  # precision that the search begins with, in these units
REFITS, EM_STEPS = 2, 5  # of the weights with a new Ω around them, and of that Ω
CONSTANT = 1e-9  # of the largest variance: a feature that varies less has no weight


@dataclass(frozen=True, eq=False)
class LinearHead:
    """g(x) = (x - ``centre``) · ``weights``, (F,) and (F, k)."""

    centre: FloatArray
    weights: FloatArray

    def __call__(self, features: NDArray[np.floating]) -> FloatArray:
        """g (n, k) of features (n, F)."""
        return np.asarray((features - self.centre) @ self.weights)


class LinearLearner:
    """Learns a linear g.

    Args:
        features: of the training subjects, (n, F).
        folds: of the cross-fit.
        seed: of the folds.
        shared: one prior for all features in place of one for each.
    """

    def __init__(self, features: FloatArray, *, folds: int = 5, seed: int = 1, shared: bool = False) -> None:
        self.folds, self.shared = folds, shared
        self.fold = fold_numbers(len(features), folds, seed)
        self.centre, spread = features.mean(0), features.std(0)
        constant = spread <= np.sqrt(CONSTANT) * spread.max(initial=0.0)
        self.scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, spread))
        self.features = (features - self.centre) * self.scale

    def __len__(self) -> int:
        return len(self.features)

    def cross_fit(self, targets: Targets) -> CrossFit:
        """g by the fit to all subjects, and of each by a fit without its fold."""
        held_out = np.empty((len(self), len(targets.factor)))
        for number in range(self.folds):
            own, rest = self.fold == number, np.flatnonzero(self.fold != number)
            weights = self._weights(rest, targets.take(rest))
            held_out[own] = (self.features[own] - self.features[rest].mean(0)) @ weights @ targets.factor.T
        weights = self._weights(np.arange(len(self)), targets)
        return CrossFit(held_out, LinearHead(self.centre, self.scale[:, None] * weights @ targets.factor.T))

    def _weights(self, rows: NDArray[np.int64], targets: Targets) -> FloatArray:
        """Weights (F, k) that the subjects at ``rows`` teach, with Ω around them by the same subjects."""
        features, found = self.features[rows], targets
        fit = relevance(_sums(features, found), shared=self.shared)
        for _ in range(REFITS):
            found = found.under(_around(features, fit, found))
            fit = relevance(_sums(features, found), shared=self.shared, start=fit)
        return fit.weights


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over subjects of (1, x)(1, x)ᵀ ⊗ W, (1 + F, k, 1 + F, k), and (1, x) ⊗ u, (1 + F, k)."""

    left: FloatArray
    right: FloatArray


def _sums(features: FloatArray, targets: Targets) -> _Sums:
    size, k = features.shape[1] + 1, len(targets.factor)
    left, right = np.zeros((size, k, size, k)), np.zeros((size, k))
    for rows in row_chunks(len(features)):
        x = np.concatenate([np.ones((rows.stop - rows.start, 1)), features[rows]], axis=1)
        right += x.T @ targets.score[rows]
        for a, b in np.ndindex(k, k):
            if b <= a:
                own = (x * targets.information[rows, a, b, None]).T @ x
                left[:, a, :, b] += own
                if b < a:
                    left[:, b, :, a] += own
    return _Sums(left, right)


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights (F, k) of standardised features, the prior's precisions (F,) over the information of all subjects, and

    the posterior covariance (P, P) of the weights of ``kept`` features, k for each, P = k · len(kept).
    """

    weights: FloatArray
    alpha: FloatArray
    kept: NDArray[np.int64]
    covariance: FloatArray


def _around(features: FloatArray, fit: Fit, targets: Targets) -> FloatArray:
    """Ω around g that fits these very subjects, weights integrated out: EM steps, with an intercept for the mean."""
    known, omega, k = targets.known, targets.omega, len(targets.factor)
    mean = features @ fit.weights @ targets.factor.T
    own = features[:, fit.kept]
    covariance = fit.covariance.reshape(len(fit.kept), k, len(fit.kept), k)
    spread = np.einsum("nf,fagb,ng->nab", own, covariance, own, optimize=True)
    spread = targets.factor @ spread @ targets.factor.T  # of g
    for _ in range(EM_STEPS):
        score, information = known.score(mean, omega)
        mean = mean + np.linalg.solve(information.sum(0), score.sum(0))
        center, posterior = known.posterior(mean, omega)
        away, shrunk = center - mean, posterior @ known.precision
        omega = posterior.mean(0) + away.T @ away / len(away) + (shrunk @ spread @ np.swapaxes(shrunk, 1, 2)).mean(0)
        omega = bounded(omega, targets.factor @ targets.factor.T)
    return omega


def relevance(sums: _Sums, *, shared: bool, start: Fit | None = None) -> Fit:
    """Weights at the precisions under which the outcomes are likeliest.

    ``shared``: one precision for all features, else one for each, over all k effects. ``start``: where to begin.
    """
    size, k = sums.right.shape
    gram, target = sums.left.reshape(size * k, size * k), sums.right.reshape(size * k)
    through = np.linalg.solve(gram[:k, :k], gram[:k, k:])  # the intercept has no prior: it is eliminated
    gram, target = gram[k:, k:] - gram[k:, :k] @ through, target[k:] - through.T @ target[:k]
    scale = float(np.diag(gram).mean()) if len(target) else 1.0
    alpha = np.full(size - 1, FIRST * scale) if start is None else np.minimum(start.alpha, 0.5 * OFF) * scale
    weights, kept, posterior = np.zeros((size - 1, k)), np.arange(0), np.zeros((0, 0))
    for _ in range(ITERATIONS):
        kept = np.flatnonzero(alpha < OFF * scale)
        weights = np.zeros((size - 1, k))
        if not len(kept):
            posterior = np.zeros((0, 0))
            break
        places = (kept[:, None] * k + np.arange(k)).ravel()
        precision = gram[np.ix_(places, places)] + np.diag(np.repeat(alpha[kept], k))
        posterior = np.asarray(np.linalg.inv(precision), np.float64)
        weights[kept] = (posterior @ target[places]).reshape(-1, k)
        known = k - alpha[kept] * np.diag(posterior).reshape(-1, k).sum(1)  # weights that the outcomes determine
        square = np.maximum(np.square(weights[kept]).sum(1), 1e-300)
        new = np.full(len(kept), known.sum() / square.sum()) if shared else known / square
        new = np.clip(new, 1e-6 * scale, 10 * OFF * scale)
        change = np.abs(np.log(new / alpha[kept])).max()
        alpha[kept] = new
        if change < SETTLED:
            break
    return Fit(weights, alpha / scale, kept, posterior)
