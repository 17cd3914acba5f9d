"""Modes of the individual posteriors: minima of ℓ(η) of :mod:`models.nlme.kernels.individual`."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import call_solve
from image_longitudinal.models.nlme.kernels.compiled import assign, borrowed, compiled, inlined, zero2
from image_longitudinal.models.nlme.kernels.dense import cholesky_solve, damped_cholesky, secant
from image_longitudinal.models.nlme.kernels.individual import parameter_of, predict_around
from image_longitudinal.models.nlme.kernels.likelihood import data_terms
from image_longitudinal.models.nlme.kernels.records import rows_of

ITERATIONS = 200
CONVERGED = 1e-12  # predicted decrease of ℓ by the last full step: η̂ within 1e-6 standard deviations of the mode
EXPLORE, EXPLORED = 12, 1e-2  # iterations and predicted decrease of a search that only compares valleys
PROMISING = 3  # starts that such searches begin from; with 27 points of a grid, 2 missed no valley of 4,000 subjects
ROUGH = 1e-5  # tolerance of the solver in such a search
NOISE = 1e-7  # a predicted decrease below this (relative) that is not reached is the solver's noise


class Search(NamedTuple):
    """Scratch arrays of the searches for a mode: R rows at most, p parameters, k random effects, S starts."""

    f: NDArray[np.float64]  # (R,)
    g: NDArray[np.float64]  # (R, p)
    phi: NDArray[np.float64]  # (1, p)
    values: NDArray[np.float64]  # (1, p)
    slopes: NDArray[np.float64]  # (1, p)
    first: NDArray[np.float64]  # (p,)
    second: NDArray[np.float64]  # (p, p)
    trial: NDArray[np.float64]  # (k,)
    slope: NDArray[np.float64]  # (k,)
    new_slope: NDArray[np.float64]  # (k,)
    move: NDArray[np.float64]  # (k,)
    step: NDArray[np.float64]  # (k,)
    h: NDArray[np.float64]  # (k, k)
    hessian: NDArray[np.float64]  # (k, k)
    beyond: NDArray[np.float64]  # (k, k) what the Hessian of ℓ has beyond that of Gauss-Newton
    parameters: NDArray[np.float64]  # (S, p)
    predicted: NDArray[np.float64]  # (S R,)
    none: NDArray[np.float64]  # (S R, 0)
    no_second: NDArray[np.float64]  # (0, 0)
    reached: NDArray[np.float64]  # (L,) ℓ of the most promising starts,
    chosen: NDArray[np.int64]  # (L,) and their positions, best first


@compiled
def new_search(n_rows, n_p, k, n_starts):  # type: ignore[no-untyped-def]
    """Scratch arrays for subjects with up to so many rows."""
    most = min(PROMISING, n_starts)
    return Search(
        np.empty(n_rows), np.empty((n_rows, n_p)), np.empty((1, n_p)), np.empty((1, n_p)), np.empty((1, n_p)),
        np.empty(n_p), np.empty((n_p, n_p)), np.empty(k), np.empty(k), np.empty(k), np.empty(k), np.empty(k),
        np.empty((k, k)), np.empty((k, k)), np.empty((k, k)), np.empty((n_starts, n_p)), np.empty(n_starts * n_rows),
        np.empty((n_starts * n_rows, 0)), np.empty((0, 0)), np.empty(most), np.empty(most, dtype=np.int64),
    )  # fmt: skip


@inlined
def screen(  # type: ignore[no-untyped-def]
    model, i, data, n_rows, rows, error, scales, random, w, starts, mu, tolerance, search
):
    """The starts (S, k) with the lowest ℓ of subject i: ``search.chosen``.

    If ℓ exists at fewer starts, the rest of it is -1. Predictions alone cost a fraction of those with derivatives, and
    a whole search takes ten of these.
    """
    values, f, none, second, lowest, reached = (
        search.parameters, search.predicted, search.none, search.no_second, search.chosen, search.reached,
    )  # fmt: skip
    n_starts, n_p, r0 = starts.shape[0], mu.shape[1], data.row_start[i]
    for s in range(n_starts):
        for a in range(n_p):
            values[s, a] = mu[i, a]
        for b in range(random.size):
            values[s, random[b]] += starts[s, b]
        for a in range(n_p):
            values[s, a], _ = parameter_of(scales[a], values[s, a])
    failed, _ = call_solve(model, (model, values, data, i, True, tolerance, f, none))
    for place in range(lowest.size):
        lowest[place], reached[place] = -1, math.inf
    for s in range(n_starts):
        if failed >= 0:  # at one of the starts: try each alone
            arguments = (model, values[s : s + 1], data, i, True, tolerance, f[s * n_rows :], none)
            alone, _ = call_solve(model, arguments)
            if alone >= 0:
                continue
        level = data_terms(rows, error, r0, n_rows, f, none, s * n_rows, second[:, 0], second)
        for a in range(random.size):
            for b in range(random.size):
                level += 0.5 * starts[s, a] * w[a, b] * starts[s, b]
        position = s
        for place in range(lowest.size):
            if level < reached[place]:
                level, reached[place] = reached[place], level
                position, lowest[place] = lowest[place], position


@inlined
def find_mode(  # type: ignore[no-untyped-def]
    model, i, data, n_rows, rows, error, scales, random, w, eta, mu, iterations, predicted_decrease, tolerance, search
):
    """Levenberg-Marquardt from ``eta``, which it moves to the mode; (ℓ there, whether it converged).

    The part of the Hessian that Gauss-Newton omits is learned from the gradients (a structured secant method: Dennis,
    Gay and Welsch 1981, ACM Trans Math Softw 7:348): in a curved valley Gauss-Newton alone takes hundreds of steps. It
    is ``search.beyond`` before and after: a search that begins near the end of another has it from there.
    The search ends with a full step whose predicted decrease of ℓ is below ``predicted_decrease``, or after so many
    ``iterations``.
    """
    f, g, phi, values, slopes, first, second = (
        search.f, search.g, search.phi, search.values, search.slopes, search.first, search.second,
    )  # fmt: skip
    trial, slope, new_slope, move, step, h, hessian, beyond = (
        search.trial, search.slope, search.new_slope, search.move, search.step, search.h, search.hessian, search.beyond,
    )  # fmt: skip
    n_p, k, r0 = mu.shape[1], eta.size, data.row_start[i]
    assign(trial, eta)
    value, damping, decrease, learned = math.inf, 0.0, math.inf, k > 0 and beyond[0, 0] != 0.0
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
        for a in range(n_p):
            phi[0, a] = mu[i, a]
        for a in range(k):
            phi[0, random[a]] += trial[a]
        new = math.inf
        if predict_around(model, i, n_rows, phi, scales, data, tolerance, values, slopes, f, g):
            new = data_terms(rows, error, r0, n_rows, f, g, 0, first, second)
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
def modes(problem, eta, beyond, starts, mu, typical, values, good):  # type: ignore[no-untyped-def]
    """Best mode of each subject over its own ``eta`` (n, k) and ``starts`` (S, k); results replace ``eta``.

    A few steps from the most promising starts show which valley is the deepest. The search is finished in that one
    and, so that more starts never give a worse mode, in that of ``eta``.

    ``beyond`` (n, k, k): what :func:`find_mode` learned in the last search and begins with, 0 in the first. ``mu``
    (n, p): φ at η = 0; ``typical`` (N,): predictions at η = 0, empty with interaction. ``values`` (n,) receives
    ℓ at the mode, ``good`` (n,) whether the search converged.
    """
    problem, eta, beyond, starts, mu, typical = borrowed((problem, eta, beyond, starts, mu, typical))
    k, n_starts, row_start, tolerance = eta.shape[1], starts.shape[0], problem.data.row_start, problem.tolerance
    model, data, error, scales = problem.model, problem.data, problem.error, problem.scales
    random, w, rows = problem.random, problem.precision, rows_of(problem, typical)
    most = 0
    for i in range(eta.shape[0]):
        most = max(most, row_start[i + 1] - row_start[i])
    search = new_search(most, mu.shape[1], k, n_starts)
    rough = max(tolerance, ROUGH)
    trial, best, own = np.empty(k), np.empty(k), np.empty(k)
    learned, chosen = search.beyond, search.chosen
    for i in range(eta.shape[0]):
        n_rows = row_start[i + 1] - row_start[i]
        lowest, deepest = math.inf, -1
        values[i], good[i] = math.inf, False
        for a in range(k):
            own[a] = best[a] = eta[i, a]
        explored = 0
        if n_starts > 0:
            screen(model, i, data, n_rows, rows, error, scales, random, w, starts, mu, rough, search)
            explored = 1 + chosen.size
        for s in range(explored + 2):
            finish = s >= explored
            if s == explored + 1 and deepest <= 0:
                break  # the deepest valley is that of eta
            near = s == 0 or s == explored
            if near:
                assign(trial, own)
            elif finish:
                assign(trial, best)
            else:
                if chosen[s - 1] < 0:
                    continue
                for a in range(k):
                    trial[a] = starts[chosen[s - 1], a]
            for a in range(k):
                for b in range(k):
                    learned[a, b] = beyond[i, a, b] if near else 0.0
            value, converged = find_mode(
                model, i, data, n_rows, rows, error, scales, random, w, trial, mu, ITERATIONS if finish else EXPLORE,
                CONVERGED if finish else EXPLORED, tolerance if finish else rough, search,
            )  # fmt: skip
            if finish and value < values[i]:
                values[i], good[i] = value, converged
                for a in range(k):
                    eta[i, a] = trial[a]
                    for b in range(k):
                        beyond[i, a, b] = learned[a, b]
            elif not finish and value < lowest:
                lowest, deepest = value, s
                assign(best, trial)
            if s == 0 and not finish:
                assign(own, trial)
    return 0
