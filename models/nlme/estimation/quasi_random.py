"""Quasi-random points: evenly spread draws, row by row."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from image_longitudinal.core.random import uniforms

FloatArray = NDArray[np.float64]


def even_uniforms(key: int, ids: NDArray[np.int64], n: int, k: int) -> FloatArray:
    """Points in the open unit cube (rows, n, k), evenly spaced also in any range of consecutive draws of a row.

    Each row has the Kronecker sequence of powers of 1/φ, φ^(k+1) = φ + 1, with its own random shift (Cranley &
    Patterson 1976, SIAM J Numer Anal 13:904). A mean over them errs much less than over independent draws: the
    logarithm of a mean is biased by minus half its relative variance, most where the proposal fits worst, and that bias
    would move the maximum of the likelihood.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (k + 1))
    steps = np.arange(n)[:, None] * ratio ** -np.arange(1.0, k + 1)
    points = (uniforms(key, ids, k)[:, None] + steps) % 1.0
    return np.asarray(np.clip(points, 2.0**-53, 1.0 - 2.0**-53))


def even_normals(key: int, ids: NDArray[np.int64], n: int, k: int) -> FloatArray:
    """Standard normal draws (rows, n, k): :func:`even_uniforms` by inversion."""
    return np.asarray(ndtri(even_uniforms(key, ids, n, k)))
