"""The bootstrap over subjects: intervals of any figure that is a function of means over subjects."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.random import stream_key, uniforms

FloatArray = NDArray[np.float64]
Figure = Callable[[FloatArray], FloatArray]  # means (..., M) → (...,)

BLOCK = 1 << 22  # draws in memory at a time: 32 MB of weights


class Estimate(NamedTuple):
    """A figure with the percentiles of its bootstrap distribution that enclose 95 %."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Estimate":
        """The figure and its interval times ``factor`` > 0."""
        return Estimate(*(factor * one for one in self))


class ResampledColumns(NamedTuple):
    """Columns (n, M) of subjects and the means of their resamples, (replicates, M)."""

    columns: FloatArray
    means: FloatArray

    def estimate(self, figure: Figure, chosen: ArrayLike | None = None, coverage: float = 0.95) -> Estimate:
        """A figure of the means of the ``chosen`` columns (all if None); its interval encloses ``coverage``."""
        columns, means = self if chosen is None else (part[:, np.asarray(chosen)] for part in self)
        low, high = np.quantile(figure(means), [(1 - coverage) / 2, (1 + coverage) / 2])
        return Estimate(float(figure(columns.mean(0)[None])[0]), float(low), float(high))

    def mean_estimates(self) -> list[Estimate]:
        """The mean over subjects of each column, with its interval."""
        return [self.estimate(lambda means: means[..., 0], [i]) for i in range(self.columns.shape[1])]


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

    def of(self, columns: ArrayLike) -> ResampledColumns:
        """Resample columns (n, M)."""
        values = np.ascontiguousarray(columns, dtype=np.float64)
        out = np.empty((self.replicates, values.shape[1]))
        step = max(1, BLOCK // max(self.n, 1))
        for start in range(0, self.replicates, step):
            rows = np.arange(start, min(start + step, self.replicates))
            drawn = (uniforms(self.key, rows, self.n) * self.n).astype(np.int64)
            drawn += np.arange(len(rows))[:, None] * self.n
            counts = np.bincount(drawn.ravel(), minlength=len(rows) * self.n).reshape(len(rows), self.n)
            out[rows] = counts.astype(np.float64) @ values / self.n
        return ResampledColumns(values, out)
