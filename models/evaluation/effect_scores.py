"""Scores of predicted random effects, with bootstrap intervals over subjects."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.evaluation.bootstrap import Estimate, Figure, Resampling
from image_longitudinal.models.evaluation.records import EffectScores

FloatArray = NDArray[np.float64]


def squares(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """The columns (n, 3k) behind MSE and R²: squared errors, truths and squared truths of each effect."""
    return np.concatenate([np.square(truth - predicted), truth, np.square(truth)], axis=1)


def mse(means: FloatArray) -> FloatArray:
    """Mean squared error over effects, of means (..., 3k) of :func:`squares`."""
    return np.asarray(np.split(means, 3, axis=-1)[0].mean(-1))


def pooled_r2(means: FloatArray) -> FloatArray:
    """1 - Σ squared error / Σ squared distance from the mean, summed over effects, of means (..., 3k)."""
    error, truth, square = np.split(means, 3, axis=-1)
    return np.asarray(1 - error.sum(-1) / np.maximum((square - truth**2).sum(-1), 1e-300))


def _r2_ratio(means: FloatArray) -> FloatArray:
    """Pooled R² of the first half of the columns over that of the second half."""
    first, second = np.split(means, 2, axis=-1)
    below = pooled_r2(second)
    return np.asarray(pooled_r2(first) / np.where(np.abs(below) < 1e-12, np.nan, below))


def score_effects(
    sources: Mapping[str, FloatArray], *, truth: FloatArray, modes: FloatArray, ceiling: FloatArray, nominal: float,
    resampling: Resampling,
) -> tuple[Estimate, dict[str, EffectScores]]:  # fmt: skip
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
    resampled = resampling.of(np.concatenate(blocks, axis=1))
    block = np.arange(3 * k)
    starts = {name: 3 * k * (1 + 2 * i) for i, name in enumerate(sources)}

    def of(figure: Figure, *begins: int) -> Estimate:
        return resampled.estimate(figure, np.concatenate([begin + block for begin in begins]))

    scores = {
        name: EffectScores(
            mse=of(mse, start),
            r2=of(pooled_r2, start),
            r2_each=tuple(resampled.estimate(pooled_r2, start + block[i::k]) for i in range(k)),
            mse_to_modes=of(mse, start + 3 * k),
            r2_to_modes=of(pooled_r2, start + 3 * k),
            of_nominal=of(pooled_r2, start).scaled(1 / nominal),
            of_realised=of(_r2_ratio, start, 0),
            of_oracle=of(_r2_ratio, start, starts["oracle"]) if "oracle" in starts else None,
        )
        for name, start in starts.items()
    }
    return of(pooled_r2, 0), scores
