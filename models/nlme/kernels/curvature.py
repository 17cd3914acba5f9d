"""Curvature of the individual objectives ℓ(η) of :mod:`models.nlme.kernels.individual` at their modes."""

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2
from image_longitudinal.models.nlme.kernels.dense import cholesky
from image_longitudinal.models.nlme.kernels.individual import STEP, predict_around
from image_longitudinal.models.nlme.kernels.likelihood import data_terms
from image_longitudinal.models.nlme.kernels.records import rows_of


@cached_kernel
def curvatures(problem, eta, mu, out):  # type: ignore[no-untyped-def]
    """``out`` (n, k, k) ← Hessian of ℓ at ``eta`` (n, k): Ω⁻¹ plus differences of the gradient of the data term.

    The expected curvature takes its place where it is not positive definite or a neighbour cannot be evaluated. With
    interaction only. ``mu`` (n, p): φ at η = 0. Returns the first subject that cannot be evaluated, or -1.
    """
    n_p, k = mu.shape[1], eta.shape[1]
    data, w, random = problem.data, problem.precision, problem.random
    rows, phi, values, slopes = (
        rows_of(problem, problem.data.observed),
        np.empty((1, n_p)),
        np.empty((1, n_p)),
        np.empty((1, n_p)),
    )
    first, second = np.empty(n_p), np.empty((n_p, n_p))
    up, hessian, factor = np.empty(n_p), np.empty((k, k)), np.empty((k, k))
    for i in range(eta.shape[0]):
        r0 = data.row_start[i]
        n_rows = data.row_start[i + 1] - r0
        f, g = np.empty(n_rows), np.empty((n_rows, n_p))
        good = True
        for direction in range(2 * k + 1):
            a, sign = direction // 2, 1.0 if direction % 2 == 0 else -1.0
            last = direction == 2 * k
            assign(phi[0], mu[i])
            for b in range(k):
                phi[0, random[b]] += eta[i, b]
            if not last:
                phi[0, random[a]] += sign * STEP
            if not predict_around(
                problem.model, i, n_rows, phi, problem.scales, data, problem.tolerance, values, slopes, f, g
            ):  # fmt: skip
                if last:
                    return i
                good = False
                continue
            data_terms(rows, problem.error, r0, n_rows, f, g, 0, first, second)
            if last:
                break
            for b in range(k):
                if sign > 0:
                    up[b] = first[random[b]]
                else:
                    hessian[b, a] = (up[b] - first[random[b]]) / (2.0 * STEP)
        if good:
            for a in range(k):
                for b in range(k):
                    out[i, a, b] = w[a, b] + 0.5 * (hessian[a, b] + hessian[b, a])
            assign2(factor, out[i])
            good = cholesky(factor)
        if not good:
            for a in range(k):
                for b in range(k):
                    out[i, a, b] = w[a, b] + second[random[a], random[b]]
    return -1


@cached_kernel
def data_derivatives(problem, phi, first, second):  # type: ignore[no-untyped-def]
    """Gradient ``first`` (n, p) and expected curvature ``second`` (n, p, p) of the data term at φ (n, p).

    With interaction only. Both are 0 for a subject that cannot be integrated there.
    """
    n_p, data, rows = phi.shape[1], problem.data, rows_of(problem, problem.data.observed)
    values, slopes = np.empty((1, n_p)), np.empty((1, n_p))
    for i in range(phi.shape[0]):
        r0 = data.row_start[i]
        n_rows = data.row_start[i + 1] - r0
        f, g = np.empty(n_rows), np.empty((n_rows, n_p))
        good = predict_around(
            problem.model, i, n_rows, phi[i : i + 1], problem.scales, data, problem.tolerance, values, slopes, f, g
        )
        if good:
            good = data_terms(rows, problem.error, r0, n_rows, f, g, 0, first[i], second[i]) < np.inf
        if not good:
            first[i, :] = 0.0
            second[i, :, :] = 0.0
    return 0


@cached_kernel
def data_hessians(problem, phi, out):  # type: ignore[no-untyped-def]
    """``out`` (n, p, p) ← Hessian of the data term at φ (n, p), by differences of its gradient. With interaction only.

    0 for a subject that cannot be evaluated there or near.
    """
    n_p, data, rows = phi.shape[1], problem.data, rows_of(problem, problem.data.observed)
    first, second, up = np.empty(n_p), np.empty((n_p, n_p)), np.empty(n_p)
    moved, values, slopes = np.empty((1, n_p)), np.empty((1, n_p)), np.empty((1, n_p))
    for i in range(phi.shape[0]):
        r0 = data.row_start[i]
        n_rows = data.row_start[i + 1] - r0
        f, g = np.empty(n_rows), np.empty((n_rows, n_p))
        hessian, good = np.zeros((n_p, n_p)), True
        for direction in range(2 * n_p):
            a, sign = direction // 2, 1.0 if direction % 2 == 0 else -1.0
            assign(moved[0], phi[i])
            moved[0, a] += sign * STEP
            good = good and predict_around(
                problem.model, i, n_rows, moved, problem.scales, data, problem.tolerance, values, slopes, f, g
            )
            good = good and data_terms(rows, problem.error, r0, n_rows, f, g, 0, first, second) < np.inf
            if not good:
                break
            for b in range(n_p):
                if sign > 0:
                    up[b] = first[b]
                else:
                    hessian[b, a] = (up[b] - first[b]) / (2.0 * STEP)
        for a in range(n_p):
            for b in range(n_p):
                out[i, a, b] = 0.5 * (hessian[a, b] + hessian[b, a]) if good else 0.0
    return 0
