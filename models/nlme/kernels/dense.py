"""Small dense matrices in compiled functions, (k, k) float64: Cholesky factors, solves, secant updates."""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.compiled import compiled


@compiled
def cholesky(a: np.ndarray) -> bool:
    """Lower Cholesky factor in place (the upper triangle is not changed); False if ``a`` is not positive definite."""
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


@compiled
def secant(b: np.ndarray, step: np.ndarray, wanted: np.ndarray, change: np.ndarray) -> None:
    """Change ``b`` (k, k) so that b·step is ``wanted`` (k,), in place; ``wanted`` is overwritten.

    ``change`` (k,) is that of the gradient along the step. The sized update of Dennis, Gay and Welsch 1981 (ACM Trans
    Math Softw 7:348, NL2SOL); no update if the curvature along the step is not positive.
    """
    k = step.size
    along, c2, s2, now, then = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(k):
        along += change[i] * step[i]
        c2 += change[i] * change[i]
        s2 += step[i] * step[i]
        then += step[i] * wanted[i]
        for j in range(k):
            now += step[i] * b[i, j] * step[j]
    if not along > 1e-8 * math.sqrt(c2 * s2):
        return
    size = min(1.0, abs(then / now)) if now != 0.0 else 1.0
    for i in range(k):
        for j in range(k):
            b[i, j] *= size
            wanted[i] -= b[i, j] * step[j]
    remainder = 0.0
    for i in range(k):
        remainder += wanted[i] * step[i]
    for i in range(k):
        for j in range(k):
            b[i, j] += (wanted[i] * change[j] + change[i] * wanted[j]) / along
            b[i, j] -= remainder * change[i] * change[j] / (along * along)


@compiled
def damped_cholesky(h: np.ndarray, a: np.ndarray, b: np.ndarray, damping: float) -> bool:
    """Factor of a + b (k, k) in ``h``, its diagonal times 1 + damping; False if not positive definite."""
    for i in range(h.shape[0]):
        for j in range(h.shape[0]):
            h[i, j] = a[i, j] + b[i, j]
        h[i, i] *= 1.0 + damping
    return cholesky(h)
