"""Pareto shape of importance weights: whether a mean over them can be trusted.

The largest weights are fitted by a generalised Pareto distribution, whose shape k tells which moments exist: above 0.7
means over any usual number of draws are unreliable (Vehtari et al. 2024, J Mach Learn Res 25:72).
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
UNRELIABLE = 0.7
AT_ONCE = 1 << 22  # numbers in memory


def pareto_shapes(log_weights: FloatArray) -> FloatArray:
    """k of each row of log weights (n, S): (n,).

    The estimator of Zhang & Stephens 2009 (Technometrics 51:316) with the weak prior of Vehtari et al.; of the M =
    min(S / 5, 3√S) largest weights. -inf where these are all equal; NaN for fewer than 5.
    """
    n, draws = log_weights.shape
    tail = int(min(0.2 * draws, 3.0 * np.sqrt(draws)))
    if tail < 5:
        return np.full(n, np.nan)
    largest = np.partition(log_weights, draws - tail - 1, axis=1)[:, draws - tail - 1 :]
    largest = np.sort(np.exp(largest - largest.max(axis=1, keepdims=True)), axis=1)
    excess = largest[:, 1:] - largest[:, :1]
    shapes = np.full(n, -np.inf)
    rows = np.flatnonzero(excess[:, -1] > 1e-12)
    grid = 30 + int(np.sqrt(tail))
    for some in np.array_split(rows, 1 + len(rows) * grid * tail // AT_ONCE):
        if len(some):
            shapes[some] = _shapes(np.maximum(excess[some], 1e-300), grid)
    return shapes


def _shapes(x: FloatArray, grid: int) -> FloatArray:
    """Shapes of generalised Pareto samples, each row of x (n, M) ascending and above 0."""
    tail = x.shape[1]
    quartile = x[:, int(tail / 4 + 0.5) - 1][:, None]
    candidates = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    theta = candidates / (3.0 * np.maximum(quartile, 1e-300)) + 1.0 / x[:, -1:]
    k = np.log1p(-theta[:, :, None] * x[:, None, :]).mean(axis=2)
    logs = tail * (np.log(-theta / k) - k - 1.0)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    mean = (weights * theta).sum(axis=1) / weights.sum(axis=1)
    own = np.log1p(-mean[:, None] * x).mean(axis=1)
    return np.asarray((own * tail + 5.0) / (tail + 10.0))
