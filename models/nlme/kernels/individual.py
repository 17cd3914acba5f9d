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
from image_longitudinal.models.nlme.kernels.compiled import assign2, borrowed, inlined, zero2
from image_longitudinal.models.nlme.kernels.dense import cholesky, cholesky_solve, log_determinant
from image_longitudinal.models.nlme.kernels.likelihood import data_terms
from image_longitudinal.models.nlme.kernels.records import rows_of
from image_longitudinal.models.nlme.model.population import DISTRIBUTIONS

LOG_NORMAL, LOGIT_NORMAL = DISTRIBUTIONS.index("log-normal"), DISTRIBUTIONS.index("logit-normal")
METHODS = ("FO", "FOCE", "FOCEI", "Laplace")
FO, FOCEI, LAPLACE = METHODS.index("FO"), METHODS.index("FOCEI"), METHODS.index("Laplace")
STEP = 1e-3  # central differences in φ: truncation 1e-6, and the solvers' noise of about 1e-8 becomes 1e-5


@inlined
def parameter_of(scale: int, phi: float) -> tuple[float, float]:
    """The parameter at φ on its scale, and its derivative."""
    if scale == LOG_NORMAL:
        value = math.exp(min(phi, 600.0))
        return value, value
    if scale == LOGIT_NORMAL:
        value = 1.0 / (1.0 + math.exp(-phi))
        return value, value * (1.0 - value)
    return phi, 1.0


@inlined
def predict_around(  # type: ignore[no-untyped-def]
    model, i, n_rows, phi, scales, data, tolerance, values, slopes, f, g
):
    """Predictions of subject i and their derivatives at each of phi (D, p), one after the other; whether they exist.

    ``n_rows``: T of the subject; f and g receive the D T rows, and may be longer. ``values``, ``slopes`` (D, p):
    scratch.
    """
    n, n_p = phi.shape
    for d in range(n):
        for a in range(n_p):
            values[d, a], slopes[d, a] = parameter_of(scales[a], phi[d, a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, g))
    if failed >= 0:
        return False
    for d in range(n):
        for j in range(d * n_rows, (d + 1) * n_rows):
            for a in range(n_p):
                g[j, a] *= slopes[d, a]
    return True


@cached_kernel
def predictions(model, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """f (N,) and its derivative g (N, p) at φ (n, p); first failed subject or -1."""
    values, slopes, row_start = np.empty((1, phi.shape[1])), np.empty((1, phi.shape[1])), data.row_start
    for i in range(phi.shape[0]):
        r0, r1 = row_start[i], row_start[i + 1]
        own = phi[i : i + 1]
        if not predict_around(model, i, r1 - r0, own, scales, data, tolerance, values, slopes, f[r0:r1], g[r0:r1]):
            return i
    return -1


@cached_kernel
def objectives(  # type: ignore[no-untyped-def]
    problem, method, eta, mu, omega, typical, objective, by_mu, by_precision, by_error, beyond
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
        beyond: (n, k, k), receives the Hessian of ℓ without H if there are derivatives: see :mod:`.modes`.

    Returns:
        The first subject whose objective does not exist, or -1.
    """
    problem, eta, mu, omega, typical, objective = borrowed((problem, eta, mu, omega, typical, objective))
    by_mu, by_precision, by_error, beyond = borrowed((by_mu, by_precision, by_error, beyond))
    n_p, k = mu.shape[1], eta.shape[1]
    data, w, random, error = problem.data, problem.precision, problem.random, problem.error
    model, scales, tolerance = problem.model, problem.scales, problem.tolerance
    row_start, rows = data.row_start, rows_of(problem, typical)
    gradient = by_mu.shape[0] > 0
    factor = omega.copy()
    if not cholesky(factor):
        return 0
    log_omega = log_determinant(factor)
    first, second = np.empty(n_p), np.empty((n_p, n_p))
    around = 2 * n_p if gradient or method == LAPLACE else 0
    phi = np.empty((around + 1, n_p))  # up and down in every φ, then the mode itself
    values, slopes = np.empty_like(phi), np.empty_like(phi)
    most = 0
    for i in range(eta.shape[0]):
        most = max(most, row_start[i + 1] - row_start[i])
    f, g = np.empty((around + 1) * most), np.empty(((around + 1) * most, n_p))
    up, down = np.empty(n_p), np.empty(n_p)
    b_up, b_down = np.empty((n_p, n_p)), np.empty((n_p, n_p))
    hessian, change = np.empty((n_p, n_p)), np.empty((n_p, k, k))
    h, inverse, full, v, shift = np.empty((k, k)), np.empty((k, k)), np.empty((k, k)), np.empty(k), np.empty(k)
    scaled = error.copy()
    for i in range(eta.shape[0]):
        r0 = row_start[i]
        n_rows = row_start[i + 1] - r0
        for direction in range(around + 1):
            for a in range(n_p):
                phi[direction, a] = mu[i, a]
            for b in range(k):
                phi[direction, random[b]] += eta[i, b] if method != FO else 0.0
            if direction < around:
                phi[direction, direction // 2] += STEP if direction % 2 == 0 else -STEP
        if not predict_around(model, i, n_rows, phi, scales, data, tolerance, values, slopes, f, g):
            return i
        value = math.inf
        for direction in range(around + 1):
            a, sign = direction // 2, 1.0 if direction % 2 == 0 else -1.0
            last = direction == around
            value = data_terms(rows, error, r0, n_rows, f, g, direction * n_rows, first, second, last)
            if last:
                break
            for b in range(n_p):
                if sign > 0:
                    up[b] = first[b]
                    for c in range(n_p):
                        b_up[b, c] = second[b, c]
                else:
                    hessian[b, a] = (up[b] - first[b]) / (2.0 * STEP)
            if sign < 0:
                for b in range(k):
                    for c in range(k):
                        change[a, b, c] = (b_up[random[b], random[c]] - second[random[b], random[c]]) / (2.0 * STEP)
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
            for b in range(k):
                inverse[b, c] = shift[b]
        for b in range(k):
            for c in range(k):
                exact = 0.5 * (hessian[random[b], random[c]] + hessian[random[c], random[b]])
                full[b, c] = w[b, c] + exact
                beyond[i, b, c] = exact - second[random[b], random[c]]
        if not cholesky(full):
            assign2(full, h)
            zero2(beyond[i])
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
            scaled[s] = error[s] * math.exp(STEP)
            above = data_terms(rows, scaled, r0, n_rows, f, g, around * n_rows, up, b_up)
            scaled[s] = error[s] * math.exp(-STEP)
            below = data_terms(rows, scaled, r0, n_rows, f, g, around * n_rows, down, b_down)
            scaled[s] = error[s]
            effect = 2.0 * (above - below)
            for b in range(k):
                effect -= v[b] * (up[random[b]] - down[random[b]])
                for c in range(k):
                    effect += inverse[b, c] * (b_up[random[b], random[c]] - b_down[random[b], random[c]])
            by_error[i, s] = effect / (2.0 * STEP)
    return -1
