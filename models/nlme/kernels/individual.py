"""The individual level of estimation: mode of the random effects, and each subject's objective.

Notation: φ = μ + E η are a subject's parameters on the scale where random effects add (log, identity or logit); E
picks the parameters that have a random effect. W = Ω⁻¹. With predictions f(φ), their derivative G and variances R,

    data(φ) = ½ Σ (y - f)² / R + log R,        ℓ(η) = data(μ + E η) + ½ ηᵀ W η,
    objective = 2 ℓ(η̂) + log |Ω| + log |H|,    H = W + Eᵀ B E  at the mode η̂,

where B = Σ G Gᵀ / R + ½ R' R'ᵀ / R² for FOCE with interaction (Wang 2007, J Pharmacokinet Pharmacodyn 34:575), and the
Hessian of ``data`` for Laplace. Without interaction R is evaluated at η = 0. The gradient of the objective accounts for
the movement of η̂ by the implicit function theorem (Almquist et al. 2015, J Pharmacokinet Pharmacodyn 42:191); second
derivatives are central differences of the analytic first ones.
"""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import call_solve
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2, compiled
from image_longitudinal.models.nlme.kernels.dense import cholesky, cholesky_solve, log_determinant
from image_longitudinal.models.nlme.kernels.likelihood import data_terms
from image_longitudinal.models.nlme.model.population import DISTRIBUTIONS

LOG_NORMAL, LOGIT_NORMAL = DISTRIBUTIONS.index("log-normal"), DISTRIBUTIONS.index("logit-normal")
METHODS = ("FO", "FOCE", "FOCEI", "Laplace")
FO, FOCEI, LAPLACE = METHODS.index("FO"), METHODS.index("FOCEI"), METHODS.index("Laplace")
STEP = 1e-3  # central differences in φ: truncation 1e-6, and the solvers' noise of about 1e-8 becomes 1e-5


@compiled
def parameter_of(scale: int, phi: float) -> tuple[float, float]:
    """The parameter at φ on its scale, and its derivative."""
    if scale == LOG_NORMAL:
        value = math.exp(min(phi, 600.0))
        return value, value
    if scale == LOGIT_NORMAL:
        value = 1.0 / (1.0 + math.exp(-phi))
        return value, value * (1.0 - value)
    return phi, 1.0


@compiled
def predict_subject(model, i, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """Predictions f (T,) of subject i and their derivatives g (T, p) at φ; whether they exist."""
    n_p = phi.size
    values, slopes = np.empty((1, n_p)), np.empty(n_p)
    for a in range(n_p):
        values[0, a], slopes[a] = parameter_of(scales[a], phi[a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, g))
    if failed >= 0:
        return False
    for j in range(f.size):
        for a in range(n_p):
            g[j, a] *= slopes[a]
    return True


@compiled
def predict_around(model, i, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """As :func:`predict_subject` at each of phi (D, p), one after the other in f (D T,) and g (D T, p), by one call."""
    n, n_p = phi.shape
    values, slopes = np.empty((n, n_p)), np.empty((n, n_p))
    for d in range(n):
        for a in range(n_p):
            values[d, a], slopes[d, a] = parameter_of(scales[a], phi[d, a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, g))
    if failed >= 0:
        return False
    n_rows = f.size // n
    for j in range(f.size):
        for a in range(n_p):
            g[j, a] *= slopes[j // n_rows, a]
    return True


@cached_kernel
def predictions(model, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """f (N,) and its derivative g (N, p) at φ (n, p); first failed subject or -1."""
    for i in range(phi.shape[0]):
        r0, r1 = data.row_start[i], data.row_start[i + 1]
        if not predict_subject(model, i, phi[i], scales, data, tolerance, f[r0:r1], g[r0:r1]):
            return i
    return -1


@cached_kernel
def objectives(  # type: ignore[no-untyped-def]
    problem, method, eta, mu, omega, typical, objective, by_mu, by_precision, by_error
):
    """Each subject's objective and, if ``by_mu`` is not empty, its derivatives.

    Args:
        method: place in :data:`METHODS`.
        eta, mu, omega: modes (n, k); φ at η = 0 (n, p); (k, k).
        typical: (N,), predictions at η = 0; empty with interaction.
        objective: (n,), receives the objectives.
        by_mu: (n, p) or empty.
        by_precision: (n, k, k), derivative with respect to W = Ω⁻¹.
        by_error: (n, 3 per endpoint), derivative with respect to the logarithms of the residual error's values.

    Returns:
        The first subject whose objective does not exist, or -1.
    """
    n_p, k = mu.shape[1], eta.shape[1]
    data, w, random, error = problem.data, problem.precision, problem.random, problem.error
    gradient = by_mu.shape[0] > 0
    factor = omega.copy()
    if not cholesky(factor):
        return 0
    log_omega = log_determinant(factor)
    first, second = np.empty(n_p), np.empty((n_p, n_p))
    around = 2 * n_p if gradient or method == LAPLACE else 0
    phi = np.empty((around + 1, n_p))  # up and down in every φ, then the mode itself
    up, down = np.empty(n_p), np.empty(n_p)
    b_up, b_down = np.empty((n_p, n_p)), np.empty((n_p, n_p))
    hessian, change = np.empty((n_p, n_p)), np.empty((n_p, k, k))
    h, inverse, full, v, shift = np.empty((k, k)), np.empty((k, k)), np.empty((k, k)), np.empty(k), np.empty(k)
    scaled = error.copy()
    for i in range(eta.shape[0]):
        r0 = data.row_start[i]
        n_rows = data.row_start[i + 1] - r0
        all_f, all_g = np.empty((around + 1) * n_rows), np.empty(((around + 1) * n_rows, n_p))
        for direction in range(around + 1):
            for a in range(n_p):
                phi[direction, a] = mu[i, a]
            for b in range(k):
                phi[direction, random[b]] += eta[i, b] if method != FO else 0.0
            if direction < around:
                phi[direction, direction // 2] += STEP if direction % 2 == 0 else -STEP
        if not predict_around(problem.model, i, phi, problem.scales, data, problem.tolerance, all_f, all_g):
            return i
        value = math.inf
        for direction in range(around + 1):
            a, sign = direction // 2, 1.0 if direction % 2 == 0 else -1.0
            f, g = all_f[direction * n_rows : (direction + 1) * n_rows], all_g[direction * n_rows :]
            at = f if problem.interaction else typical[r0 : r0 + n_rows]
            value = data_terms(problem, error, r0, f, at, g, first, second)
            if direction == around:
                break
            for b in range(n_p):
                if sign > 0:
                    up[b] = first[b]
                    assign(b_up[b], second[b])
                else:
                    hessian[b, a] = (up[b] - first[b]) / (2.0 * STEP)
            if sign < 0:
                for b in range(k):
                    for c in range(k):
                        change[a, b, c] = (b_up[random[b], random[c]] - second[random[b], random[c]]) / (2.0 * STEP)
        f, g = all_f[around * n_rows :], all_g[around * n_rows :]
        at = f if problem.interaction else typical[r0 : r0 + n_rows]
        for b in range(k):
            for c in range(k):
                if method == LAPLACE:
                    h[b, c] = w[b, c] + 0.5 * (hessian[random[b], random[c]] + hessian[random[c], random[b]])
                else:
                    h[b, c] = w[b, c] + second[random[b], random[c]]
        if not cholesky(h):
            return i
        total = 2.0 * value + log_omega + log_determinant(h)
        if method == FO:  # the marginal of the model linearised at η = 0
            for b in range(k):
                shift[b] = first[random[b]]
            cholesky_solve(h, shift)
            for b in range(k):
                total -= first[random[b]] * shift[b]
        else:
            for b in range(k):
                for c in range(k):
                    total += eta[i, b] * w[b, c] * eta[i, c]
        objective[i] = total
        if not math.isfinite(total):
            return i
        if not gradient:
            continue
        for c in range(k):
            for b in range(k):
                shift[b] = 0.0
            shift[c] = 1.0
            cholesky_solve(h, shift)
            assign(inverse[:, c], shift)
        for b in range(k):
            for c in range(k):
                full[b, c] = w[b, c] + 0.5 * (hessian[random[b], random[c]] + hessian[random[c], random[b]])
        if not cholesky(full):
            assign2(full, h)
        for a in range(n_p):  # direct effect on log |H|
            by_mu[i, a] = 0.0
            for b in range(k):
                for c in range(k):
                    by_mu[i, a] += inverse[b, c] * change[a, b, c]
        for b in range(k):
            v[b] = by_mu[i, random[b]]
        cholesky_solve(full, v)  # effect of the inner gradient on log |H| through the mode
        for a in range(n_p):
            by_mu[i, a] += 2.0 * first[a]
            for b in range(k):
                by_mu[i, a] -= v[b] * hessian[random[b], a]
        for b in range(k):
            for c in range(k):
                by_precision[i, b, c] = (
                    eta[i, b] * eta[i, c] - omega[b, c] + inverse[b, c]
                    - 0.5 * (v[b] * eta[i, c] + v[c] * eta[i, b])
                )  # fmt: skip
        for s in range(error.size):
            by_error[i, s] = 0.0
            if error[s] == 0.0:
                continue
            assign(scaled, error)
            scaled[s] = error[s] * math.exp(STEP)
            above = data_terms(problem, scaled, r0, f, at, g, up, b_up)
            scaled[s] = error[s] * math.exp(-STEP)
            below = data_terms(problem, scaled, r0, f, at, g, down, b_down)
            effect = 2.0 * (above - below)
            for b in range(k):
                effect -= v[b] * (up[random[b]] - down[random[b]])
                for c in range(k):
                    effect += inverse[b, c] * (b_up[random[b], random[c]] - b_down[random[b], random[c]])
            by_error[i, s] = effect / (2.0 * STEP)
    return -1
