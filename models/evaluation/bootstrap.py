"""The bootstrap over subjects: intervals of any figure that is a function of means over subjects."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.random import stream_key, uniforms

FloatArray = NDArray[np.float64]

BLOCK = 1 << 22  # draws in memory at a time: 32 MB of weights


class Estimate(NamedTuple):
    """A figure with the percentiles of its bootstrap distribution that enclose 95 %."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The figure and its interval times ``factor`` > 0."""
        return Estimate(*(factor * one for one in self))


class Resampling:
    """The same resamples of n subjects for every figure, so that their ratios can be resampled too.

    Replicate r draws n subjects with replacement from the stream of (seed, "bootstrap"), row r: the same for any block
    size. Efron 1979, *Bootstrap methods: another look at the jackknife*.

    Args:
        n: subjects.
        seed: of the data set.
        replicates: number of resamples.
    """

    def __init__(self, n: int, seed: int, replicates: int = 1000) -> None:
        self.n, self.replicates, self.key = n, replicates, stream_key(seed, "bootstrap")

    def means(self, columns: ArrayLike) -> FloatArray:
        """Means over each resample: (n, M) → (replicates, M)."""
        values = np.ascontiguousarray(columns, dtype=np.float64)
        out = np.empty((self.replicates, values.shape[1]))
        step = max(1, BLOCK // max(self.n, 1))
        for start in range(0, self.replicates, step):
            rows = np.arange(start, min(start + step, self.replicates))
            drawn = (uniforms(self.key, rows, self.n) * self.n).astype(np.int64)
            drawn += np.arange(len(rows))[:, None] * self.n
            counts = np.bincount(drawn.ravel(), minlength=len(rows) * self.n).reshape(len(rows), self.n)
            out[rows] = counts.astype(np.float64) @ values / self.n
        return out


def estimate(
    figure: Callable[[FloatArray], FloatArray], columns: ArrayLike, resampled: FloatArray, coverage: float = 0.95
) -> Estimate:
    """A figure of the subjects' means with its interval.

    Args:
        figure: means (..., M) → (...,).
        columns: per subject, (n, M).
        resampled: means of the resamples, (replicates, M), of :meth:`Resampling.means`.
        coverage: fraction of the bootstrap distribution that the interval encloses.
    """
    value = figure(np.asarray(columns, np.float64).mean(0)[None])[0]
    low, high = np.quantile(figure(resampled), [(1 - coverage) / 2, (1 + coverage) / 2])
    return Estimate(float(value), float(low), float(high))


def mean_estimates(columns: FloatArray, resampling: Resampling) -> list[Estimate]:
    """The mean over subjects of each column (n, M), with its interval."""
    resampled = resampling.means(columns)
    return [estimate(lambda means: means[..., 0], columns[:, [i]], resampled[:, [i]]) for i in range(columns.shape[1])]
