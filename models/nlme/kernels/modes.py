"""Modes of the individual posteriors: minima of ℓ(η) of :mod:`models.nlme.kernels.individual`."""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import call_solve
from image_longitudinal.models.nlme.kernels.compiled import assign, compiled, zero2
from image_longitudinal.models.nlme.kernels.dense import cholesky_solve, damped_cholesky, secant
from image_longitudinal.models.nlme.kernels.individual import parameter_of, predict_subject
from image_longitudinal.models.nlme.kernels.likelihood import data_terms

ITERATIONS = 200
CONVERGED = 1e-12  # predicted decrease of ℓ by the last full step: η̂ within 1e-6 standard deviations of the mode
EXPLORE, EXPLORED = 12, 1e-2  # iterations and predicted decrease of a search that only compares valleys
PROMISING = 3  # starts that such searches begin from; with 27 points of a grid, 2 missed no valley of 4,000 subjects
ROUGH = 1e-5  # tolerance of the solver in such a search
NOISE = 1e-7  # a predicted decrease below this (relative) that is not reached is the solver's noise


@compiled
def screen(problem, i, starts, mu, typical, tolerance, lowest):  # type: ignore[no-untyped-def]
    """Positions of the starts (S, k) with the lowest ℓ of subject i in ``lowest`` (L,), best first.

    If ℓ exists at fewer than L starts, the rest of ``lowest`` is -1. Predictions alone cost a fraction of those with
    derivatives, and a whole search takes ten of these.
    """
    data, w, random, scales = problem.data, problem.precision, problem.random, problem.scales
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
            values[s, a], _ = parameter_of(scales[a], values[s, a])
    failed, _ = call_solve(problem.model, (problem.model, values, data, i, True, tolerance, f, none))
    for place in range(lowest.size):
        lowest[place], reached[place] = -1, math.inf
    for s in range(n_starts):
        own = f[s * n_rows : (s + 1) * n_rows]
        if failed >= 0:  # at one of the starts: try each alone
            arguments = (problem.model, values[s : s + 1], data, i, True, tolerance, own, none[:n_rows])
            alone, _ = call_solve(problem.model, arguments)
            if alone >= 0:
                continue
        at = own if problem.interaction else typical
        level = data_terms(problem, problem.error, r0, own, at, none[:n_rows], first, second)
        for a in range(random.size):
            for b in range(random.size):
                level += 0.5 * starts[s, a] * w[a, b] * starts[s, b]
        position = s
        for place in range(lowest.size):
            if level < reached[place]:
                level, reached[place] = reached[place], level
                position, lowest[place] = lowest[place], position
    return 0


@compiled
def find_mode(problem, i, eta, mu, typical, iterations, predicted_decrease, tolerance):  # type: ignore[no-untyped-def]
    """Levenberg-Marquardt from ``eta``, which it moves to the mode; (ℓ there, whether it converged).

    The part of the Hessian that Gauss-Newton omits is learned from the gradients (a structured secant method: Dennis,
    Gay and Welsch 1981, ACM Trans Math Softw 7:348): in a curved valley Gauss-Newton alone takes hundreds of steps.
    The search ends with a full step whose predicted decrease of ℓ is below ``predicted_decrease``, or after so many
    ``iterations``.
    """
    data, w, random = problem.data, problem.precision, problem.random
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
                zero2(beyond)
                learned = False
                if not damped_cholesky(h, hessian, beyond, damping):
                    return value, False
            assign(move, slope)
            cholesky_solve(h, move)
            decrease = 0.0
            for a in range(k):
                decrease += 0.5 * slope[a] * move[a]
                trial[a] = eta[a] - move[a]
            if decrease < predicted_decrease and damping < 1.0:
                assign(eta, trial)
                return value - decrease, True
        assign(phi, mu)
        for a in range(k):
            phi[random[a]] += trial[a]
        new = math.inf
        if predict_subject(problem.model, i, phi, problem.scales, data, tolerance, f, g):
            at = f if problem.interaction else typical
            new = data_terms(problem, problem.error, r0, f, at, g, first, second)
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
                zero2(beyond)
                learned = False
            damping = max(1e-2, 10.0 * damping)
    return value, False


@cached_kernel
def modes(problem, eta, starts, mu, typical, values, good):  # type: ignore[no-untyped-def]
    """Best mode of each subject over its own ``eta`` (n, k) and ``starts`` (S, k); results replace ``eta``.

    A few steps from the most promising starts show which valley is the deepest. The search is finished in that one
    and, so that more starts never give a worse mode, in that of ``eta``.

    ``mu`` (n, p): φ at η = 0; ``typical`` (N,): predictions at η = 0, empty with interaction. ``values`` (n,) receives
    ℓ at the mode, ``good`` (n,) whether the search converged.
    """
    k, n_starts, row_start, tolerance = eta.shape[1], starts.shape[0], problem.data.row_start, problem.tolerance
    rough = max(tolerance, ROUGH)
    trial, best, own = np.empty(k), np.empty(k), np.empty(k)
    chosen = np.full(min(PROMISING, n_starts), -1)
    for i in range(eta.shape[0]):
        at = typical[row_start[i] : row_start[i + 1]] if typical.size > 0 else typical
        lowest, deepest = math.inf, -1
        values[i], good[i] = math.inf, False
        assign(own, eta[i])
        assign(best, eta[i])
        explored = 0
        if n_starts > 0:
            screen(problem, i, starts, mu[i], at, rough, chosen)
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
            value, converged = find_mode(
                problem, i, trial, mu[i], at, ITERATIONS if finish else EXPLORE, CONVERGED if finish else EXPLORED,
                tolerance if finish else rough,
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
