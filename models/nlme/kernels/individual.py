"""The individual level of estimation: mode of the random effects, and each subject's share of the objective.

Notation: φ = μ + E η are a subject's parameters on the scale where random effects add (log, identity or logit); E
picks the parameters that have a random effect. W = Ω⁻¹. With predictions f(φ), their derivative G and variances R,

    data(φ) = ½ Σ (y - f)² / R + log R,        ℓ(η) = data(μ + E η) + ½ ηᵀ W η,
    objective = 2 ℓ(η̂) + log |Ω| + log |H|,    H = W + Eᵀ B E  at the mode η̂,

where B = Σ G Gᵀ / R + ½ R' R'ᵀ / R² for FOCE with interaction (Wang 2007, J Pharmacokinet Pharmacodyn 34:575), and the
Hessian of ``data`` for Laplace. Without interaction R is taken at η = 0. The gradient of the objective accounts for
the movement of η̂ by the implicit function theorem (Almquist et al. 2015, J Pharmacokinet Pharmacodyn 42:191); second
derivatives are central differences of the analytic first ones.
"""

from __future__ import annotations

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import call_solve
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2, compiled
from image_longitudinal.models.nlme.kernels.dense import (
    cholesky,
    cholesky_solve,
    damped_cholesky,
    forget,
    log_determinant,
    secant,
)
from image_longitudinal.models.nlme.kernels.likelihood import data_terms

LOG_NORMAL, NORMAL, LOGIT = 0, 1, 2  # scales of the parameters
STEP = 1e-3  # central differences in φ: truncation 1e-6, and the solvers' noise of about 1e-8 becomes 1e-5
ITERATIONS = 200
CONVERGED = 1e-12  # decrease of ℓ that the last full step promises: η̂ within 1e-6 standard deviations of the mode
EXPLORE, EXPLORED = 12, 1e-2  # iterations and promise of a search that only asks which valley is the deepest
PROMISING = 3  # starts that such searches begin from; with 27 points of a grid, 2 missed no valley of 4,000 subjects
ROUGH = 1e-5  # tolerance of the solver in such a search
NOISE = 1e-7  # a promise below this (relative) that is not kept is the solver's noise
FO, FOCE, FOCEI, LAPLACE = range(4)


@compiled
def natural(scale: int, phi: float) -> tuple[float, float]:
    """The parameter of φ on its scale, and its derivative."""
    if scale == LOG_NORMAL:
        value = math.exp(min(phi, 600.0))
        return value, value
    if scale == LOGIT:
        value = 1.0 / (1.0 + math.exp(-phi))
        return value, value * (1.0 - value)
    return phi, 1.0


@compiled
def predict(model, i, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """Predictions f (T,) of subject i and their derivatives g (T, p) at φ; whether there are any."""
    n_p = phi.size
    values, slopes = np.empty((1, n_p)), np.empty(n_p)
    for a in range(n_p):
        values[0, a], slopes[a] = natural(scales[a], phi[a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, g))
    if failed >= 0:
        return False
    for j in range(f.size):
        for a in range(n_p):
            g[j, a] *= slopes[a]
    return True


@compiled
def screen(  # type: ignore[no-untyped-def]
    model, i, starts, mu, w, random, scales, kinds, error, interaction, typical, data, tolerance, lowest
):
    """Positions of the starts (S, k) with the lowest ℓ of subject i in ``lowest`` (L,), best first.

    What is left over of ``lowest``, where fewer starts have an ℓ, is -1. Predictions alone cost a fraction of those
    with derivatives, and a whole search takes ten of these.
    """
    n_starts, n_p, r0 = starts.shape[0], mu.size, data.row_start[i]
    n_rows = data.row_start[i + 1] - r0
    values, f = np.empty((n_starts, n_p)), np.empty(n_starts * n_rows)
    none, first, second, reached = np.empty((f.size, 0)), np.empty(0), np.empty((0, 0)), np.empty(lowest.size)
    for s in range(n_starts):
        for a in range(n_p):
            values[s, a] = mu[a]
        for b in range(random.size):
            values[s, random[b]] += starts[s, b]
        for a in range(n_p):
            values[s, a], _ = natural(scales[a], values[s, a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, none))
    for place in range(lowest.size):
        lowest[place], reached[place] = -1, math.inf
    for s in range(n_starts):
        own = f[s * n_rows : (s + 1) * n_rows]
        if failed >= 0:  # of some start: the others one by one
            alone, _ = call_solve(model, (model, values[s : s + 1], data, i, True, tolerance, own, none[:n_rows]))
            if alone >= 0:
                continue
        at = own if interaction else typical
        level = data_terms(kinds, error, interaction, data, r0, own, at, none[:n_rows], first, second)
        for a in range(random.size):
            for b in range(random.size):
                level += 0.5 * starts[s, a] * w[a, b] * starts[s, b]
        position = s
        for place in range(lowest.size):
            if level < reached[place]:
                level, reached[place] = reached[place], level
                position, lowest[place] = lowest[place], position
    return 0


@cached_kernel
def predictions(model, phi, scales, data, tolerance, f, g):  # type: ignore[no-untyped-def]
    """f (N,) and its derivative g (N, p) at φ (n, p); first failed subject or -1."""
    for i in range(phi.shape[0]):
        r0, r1 = data.row_start[i], data.row_start[i + 1]
        if not predict(model, i, phi[i], scales, data, tolerance, f[r0:r1], g[r0:r1]):
            return i
    return -1


@compiled
def mode(  # type: ignore[no-untyped-def]
    model, i, eta, mu, w, random, scales, kinds, error, interaction, typical, iterations, promise, data, tolerance
):
    """Levenberg-Marquardt from ``eta``, which it moves to the mode; (ℓ there, whether it converged).

    What the Hessian has beyond Gauss-Newton's is learned from the slopes on the way (a structured secant method:
    Dennis, Gay and Welsch 1981, ACM Trans Math Softw 7:348): in a curved valley Gauss-Newton alone takes hundreds
    of steps.
    It ends with a full step once that promises a decrease of ℓ below ``promise``, or after so many ``iterations``.
    """
    n_p, k, r0 = mu.size, eta.size, data.row_start[i]
    n_rows = data.row_start[i + 1] - r0
    f, g = np.empty(n_rows), np.empty((n_rows, n_p))
    first, second, phi, trial = np.empty(n_p), np.empty((n_p, n_p)), np.empty(n_p), eta.copy()
    h, slope, move = np.empty((k, k)), np.empty(k), np.empty(k)
    new_slope, step, hessian, beyond = np.empty(k), np.empty(k), np.empty((k, k)), np.zeros((k, k))
    value, damping, decrease, learned = math.inf, 0.0, math.inf, False
    for iteration in range(iterations):
        if iteration > 0:
            if not damped_cholesky(h, hessian, beyond, damping):
                learned = forget(beyond)
                if not damped_cholesky(h, hessian, beyond, damping):
                    return value, False
            assign(move, slope)
            cholesky_solve(h, move)
            decrease = 0.0
            for a in range(k):
                decrease += 0.5 * slope[a] * move[a]
                trial[a] = eta[a] - move[a]
            if decrease < promise and damping < 1.0:
                assign(eta, trial)
                return value - decrease, True
        assign(phi, mu)
        for a in range(k):
            phi[random[a]] += trial[a]
        new = math.inf
        if predict(model, i, phi, scales, data, tolerance, f, g):
            at = f if interaction else typical
            new = data_terms(kinds, error, interaction, data, r0, f, at, g, first, second)
            for a in range(k):
                for b in range(k):
                    new += 0.5 * trial[a] * w[a, b] * trial[b]
        if iteration == 0 and not new < math.inf:
            return math.inf, False
        if new < value:
            for a in range(k):
                new_slope[a] = first[random[a]]
                for b in range(k):
                    new_slope[a] += w[a, b] * trial[b]
                    hessian[a, b] = w[a, b] + second[random[a], random[b]]
            if iteration > 0:
                for a in range(k):
                    step[a] = trial[a] - eta[a]
                    slope[a] = new_slope[a] - slope[a]
                for a in range(k):
                    move[a] = slope[a]
                    for b in range(k):
                        move[a] -= hessian[a, b] * step[b]
                secant(beyond, step, move, slope)
                learned = True
            value = new
            assign(eta, trial)
            assign(slope, new_slope)
            damping = 0.0 if damping < 1e-3 else 0.1 * damping
        else:
            if decrease < NOISE * (1.0 + abs(value)):
                if not learned:
                    return value, True
                learned = forget(beyond)
            damping = max(1e-2, 10.0 * damping)
    return value, False


@cached_kernel
def modes(  # type: ignore[no-untyped-def]
    model, eta, starts, mu, w, random, scales, kinds, error, interaction, typical, data, tolerance, values, good
):
    """Best mode of each subject over its own ``eta`` (n, k) and ``starts`` (S, k); results replace ``eta``.

    A few steps from the most promising starts tell which valley is the deepest; the search is finished in that one
    and, lest more starts do harm, in that of ``eta``. ``values`` (n,) receives ℓ, ``good`` (n,) whether the search
    converged.
    ``typical`` (N,): predictions at η = 0, needed without interaction.
    """
    k, n_starts = eta.shape[1], starts.shape[0]
    trial, best, own = np.empty(k), np.empty(k), np.empty(k)
    chosen = np.full(min(PROMISING, n_starts), -1)
    for i in range(eta.shape[0]):
        at = typical[data.row_start[i] : data.row_start[i + 1]] if typical.size > 0 else typical
        lowest, deepest = math.inf, -1
        values[i], good[i] = math.inf, False
        assign(own, eta[i])
        assign(best, eta[i])
        explored = 0
        if n_starts > 0:
            screen(
                model, i, starts, mu[i], w, random, scales, kinds, error, interaction, at, data, max(tolerance, ROUGH),
                chosen,
            )  # fmt: skip
            explored = 1 + chosen.size
        for s in range(explored + 2):
            finish = s >= explored
            if s == explored + 1 and deepest <= 0:
                break  # the deepest valley is that of eta
            if s == 0 and not finish:
                assign(trial, eta[i])
            elif not finish:
                if chosen[s - 1] < 0:
                    continue
                assign(trial, starts[chosen[s - 1]])
            elif s == explored:
                assign(trial, own)
            else:
                assign(trial, best)
            value, converged = mode(
                model, i, trial, mu[i], w, random, scales, kinds, error, interaction, at,
                ITERATIONS if finish else EXPLORE, CONVERGED if finish else EXPLORED, data,
                tolerance if finish else max(tolerance, ROUGH),
            )  # fmt: skip
            if finish and value < values[i]:
                values[i], good[i] = value, converged
                assign(eta[i], trial)
            elif not finish and value < lowest:
                lowest, deepest = value, s
                assign(best, trial)
            if s == 0 and not finish:
                assign(own, trial)
    return 0


@cached_kernel
def contributions(  # type: ignore[no-untyped-def]
    model, method, eta, mu, omega, w, random, scales, kinds, error, typical, data, tolerance,
    objective, by_mu, by_w, by_error,
):  # fmt: skip
    """``objective`` (n,); ``by_mu`` (n, p), ``by_w`` (n, k, k) and ``by_error`` (n, 3 per endpoint) if not empty.

    ``by_w`` is the derivative with respect to W = Ω⁻¹, ``by_error`` that with respect to the logarithms of the
    residual error's values. Returns the first subject whose objective does not exist, or -1.
    """
    n_p, k = mu.shape[1], eta.shape[1]
    interaction = method >= FOCEI
    gradient = by_mu.shape[0] > 0
    factor = omega.copy()
    if not cholesky(factor):
        return 0
    log_omega = log_determinant(factor)
    first, second, phi = np.empty(n_p), np.empty((n_p, n_p)), np.empty(n_p)
    up, down = np.empty(n_p), np.empty(n_p)
    b_up, b_down = np.empty((n_p, n_p)), np.empty((n_p, n_p))
    hessian, change = np.empty((n_p, n_p)), np.empty((n_p, k, k))
    h, inverse, true, v, shift = np.empty((k, k)), np.empty((k, k)), np.empty((k, k)), np.empty(k), np.empty(k)
    scaled = error.copy()
    for i in range(eta.shape[0]):
        r0 = data.row_start[i]
        n_rows = data.row_start[i + 1] - r0
        f, g = np.empty(n_rows), np.empty((n_rows, n_p))
        around = 2 * n_p if gradient or method == LAPLACE else 0
        value = math.inf
        for direction in range(around + 1):  # forth and back in every φ, and at last the mode itself
            a, sign = direction // 2, 1.0 if direction % 2 == 0 else -1.0
            assign(phi, mu[i])
            for b in range(k):
                phi[random[b]] += eta[i, b] if method != FO else 0.0
            if direction < around:
                phi[a] += sign * STEP
            if not predict(model, i, phi, scales, data, tolerance, f, g):
                return i
            at = f if interaction else typical[r0 : r0 + n_rows]
            value = data_terms(kinds, error, interaction, data, r0, f, at, g, first, second)
            if direction == around:
                break
            for b in range(n_p):
                if sign > 0:
                    up[b] = first[b]
                    b_up[b] = second[b]
                else:
                    hessian[b, a] = (up[b] - first[b]) / (2.0 * STEP)
            if sign < 0:
                for b in range(k):
                    for c in range(k):
                        change[a, b, c] = (b_up[random[b], random[c]] - second[random[b], random[c]]) / (2.0 * STEP)
        at = f if interaction else typical[r0 : r0 + n_rows]
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
                true[b, c] = w[b, c] + 0.5 * (hessian[random[b], random[c]] + hessian[random[c], random[b]])
        if not cholesky(true):
            assign2(true, h)
        for a in range(n_p):  # direct effect on log |H|
            by_mu[i, a] = 0.0
            for b in range(k):
                for c in range(k):
                    by_mu[i, a] += inverse[b, c] * change[a, b, c]
        for b in range(k):
            v[b] = by_mu[i, random[b]]
        cholesky_solve(true, v)  # what a push on the inner gradient does to log |H| through the mode
        for a in range(n_p):
            by_mu[i, a] += 2.0 * first[a]
            for b in range(k):
                by_mu[i, a] -= v[b] * hessian[random[b], a]
        for b in range(k):
            for c in range(k):
                by_w[i, b, c] = (
                    eta[i, b] * eta[i, c] - omega[b, c] + inverse[b, c]
                    - 0.5 * (v[b] * eta[i, c] + v[c] * eta[i, b])
                )  # fmt: skip
        for s in range(error.size):
            by_error[i, s] = 0.0
            if error[s] == 0.0:
                continue
            assign(scaled, error)
            scaled[s] = error[s] * math.exp(STEP)
            above = data_terms(kinds, scaled, interaction, data, r0, f, at, g, up, b_up)
            scaled[s] = error[s] * math.exp(-STEP)
            below = data_terms(kinds, scaled, interaction, data, r0, f, at, g, down, b_down)
            effect = 2.0 * (above - below)
            for b in range(k):
                effect -= v[b] * (up[random[b]] - down[random[b]])
                for c in range(k):
                    effect += inverse[b, c] * (b_up[random[b], random[c]] - b_down[random[b], random[c]])
            by_error[i, s] = effect / (2.0 * STEP)
    return -1
