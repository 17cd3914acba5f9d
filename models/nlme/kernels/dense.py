"""Small dense matrices in compiled functions: Cholesky factors and what is solved with them, (k, k) float64."""

from __future__ import annotations

import math

import numpy as np

from models.nlme.kernels.compiled import compiled


@compiled
def cholesky(a: np.ndarray) -> bool:
    """Lower Cholesky factor in place (upper triangle left as it is); False if ``a`` is not positive definite."""
    n = a.shape[0]
    for j in range(n):
        for k in range(j):
            a[j, j] -= a[j, k] * a[j, k]
        if not a[j, j] > 0.0:
            return False
        a[j, j] = math.sqrt(a[j, j])
        for i in range(j + 1, n):
            for k in range(j):
                a[i, j] -= a[i, k] * a[j, k]
            a[i, j] /= a[j, j]
    return True


@compiled
def cholesky_solve(factor: np.ndarray, x: np.ndarray) -> None:
    """x ← (L Lᵀ)⁻¹ x in place."""
    n = factor.shape[0]
    for i in range(n):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            x[i] -= factor[k, i] * x[k]
        x[i] /= factor[i, i]


@compiled
def log_determinant(factor: np.ndarray) -> float:
    """log |L Lᵀ|."""
    total = 0.0
    for i in range(factor.shape[0]):
        total += 2.0 * math.log(factor[i, i])
    return total
