"""Scores of predicted random effects, with bootstrap intervals over subjects."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling, estimate
from image_longitudinal.models.evaluation.records import EffectScores

FloatArray = NDArray[np.float64]
Figure = Callable[[FloatArray], FloatArray]  # means (..., M) → (...,)


def squares(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """The columns (n, 3k) behind MSE and R²: squared errors, truths and squared truths of each effect."""
    return np.concatenate([np.square(truth - predicted), truth, np.square(truth)], axis=1)


def mse(means: FloatArray) -> FloatArray:
    """Mean squared error over effects, of means (..., 3k) of :func:`squares`."""
    return np.asarray(_thirds(means)[0].mean(-1))


def pooled_r2(means: FloatArray) -> FloatArray:
    """1 - Σ squared error / Σ squared distance from the mean, summed over effects, of means (..., 3k)."""
    error, truth, square = _thirds(means)
    return np.asarray(1 - error.sum(-1) / np.maximum((square - truth**2).sum(-1), 1e-300))


def r2_of(effect: int) -> Figure:
    """R² of one effect."""

    def figure(means: FloatArray) -> FloatArray:
        error, truth, square = (part[..., effect] for part in _thirds(means))
        return np.asarray(1 - error / np.maximum(square - truth**2, 1e-300))

    return figure


def ratio(first: Figure, second: Figure) -> Figure:
    """``first`` of the first half of the columns over ``second`` of the second half."""

    def figure(means: FloatArray) -> FloatArray:
        half = means.shape[-1] // 2
        below = second(means[..., half:])
        return np.asarray(first(means[..., :half]) / np.where(np.abs(below) < 1e-12, np.nan, below))

    return figure


def score_effects(
    sources: Mapping[str, FloatArray],
    *,
    truth: FloatArray,
    modes: FloatArray,
    ceiling: FloatArray,
    nominal: float,
    resampling: Resampling,
) -> tuple[Estimate, dict[str, EffectScores]]:
    """The realised ceiling, and the scores of each source's η (n, k) on the test subjects.

    Args:
        sources: predicted random effects by name.
        truth: the true ones, (n, k).
        modes: the empirical Bayes estimates, (n, k).
        ceiling: E[η | z], (n, k), whose R² on these very subjects is the realised ceiling.
        nominal: the association level: the ceiling in an infinite population.
        resampling: the bootstrap.
    """
    k = truth.shape[1]
    blocks = [squares(truth, ceiling)]
    for eta in sources.values():
        blocks += [squares(truth, eta), squares(modes, eta)]
    columns = np.concatenate(blocks, axis=1)
    resampled = resampling.means(columns)
    starts = {name: 3 * k * (1 + 2 * i) for i, name in enumerate(sources)}

    def of(figure: Figure, *begins: int) -> Estimate:
        chosen = np.concatenate([np.arange(begin, begin + 3 * k) for begin in begins])
        return estimate(figure, columns[:, chosen], resampled[:, chosen])

    scores = {
        name: EffectScores(
            mse=of(mse, start),
            r2=of(pooled_r2, start),
            r2_each=tuple(of(r2_of(effect), start) for effect in range(k)),
            mse_to_modes=of(mse, start + 3 * k),
            r2_to_modes=of(pooled_r2, start + 3 * k),
            of_nominal=of(pooled_r2, start).scaled(1 / nominal),
            of_realised=of(ratio(pooled_r2, pooled_r2), start, 0),
            of_oracle=of(ratio(pooled_r2, pooled_r2), start, starts["oracle"]) if "oracle" in starts else None,
        )
        for name, start in starts.items()
    }
    return of(pooled_r2, 0), scores


def _thirds(means: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    k = means.shape[-1] // 3
    return means[..., :k], means[..., k : 2 * k], means[..., 2 * k :]
