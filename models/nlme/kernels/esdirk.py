"""Stiff-safe adaptive integrator for generated models, with the exact derivative of its own steps.

ESDIRK4(3)6L[2]SA (Kennedy & Carpenter, NASA/TM-2016-219173; the implicit part of ARK4(3)6L[2]SA, 2003): six stages,
the first explicit, order 4 with an embedded order 3, L-stable, stiffly accurate, stage order 2. Each stage is solved
by Newton's method with the symbolic Jacobian; the sensitivities to the parameters obey the same stages, differentiated,
so they are the derivative of the computed solution at its step sizes, not a separate approximation.

``rhs``, ``jacobian``, ... are compiled functions written by :mod:`models.nlme.codegen`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Compiled = Callable[..., Any]

GAMMA = 0.25
C = np.array([0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0])
A = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1 / 4, 1 / 4, 0.0, 0.0, 0.0, 0.0],
        [8611 / 62500, -1743 / 31250, 1 / 4, 0.0, 0.0, 0.0],
        [5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 1 / 4, 0.0, 0.0],
        [15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912, 1 / 4, 0.0],
        [82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4],
    ]
)
B = A[5].copy()
B_EMBEDDED = np.array(
    [4586570599 / 29645900160, 0.0, 178811875 / 945068544, 814220225 / 1159782912, -3700637 / 11593932, 61727 / 225920]
)
ERROR = B - B_EMBEDDED
STAGES = 6
CHORD, NEWTON = 4, 8  # iterations of a stage with the step's first Jacobian, then with its own
SOLVED = 0.01  # change of a stage, in units of the tolerance, at which it counts as solved
GROWTH = 3.0
MAX_STEPS = 200_000
TOLERANCE = 2e-8  # per step, relative to the largest size each state has had: global errors stay below 1e-6


@njit(nogil=True, error_model="numpy")
def factor(a: np.ndarray, pivot: np.ndarray) -> bool:
    """LU factors of a (n, n) in place with partial pivoting; False if singular."""
    n = a.shape[0]
    for j in range(n):
        best = j
        for i in range(j + 1, n):
            if abs(a[i, j]) > abs(a[best, j]):
                best = i
        pivot[j] = best
        if best != j:
            for k in range(n):
                a[j, k], a[best, k] = a[best, k], a[j, k]
        if not abs(a[j, j]) > 0.0:
            return False
        for i in range(j + 1, n):
            a[i, j] /= a[j, j]
            for k in range(j + 1, n):
                a[i, k] -= a[i, j] * a[j, k]
    return True


@njit(nogil=True, error_model="numpy")
def substitute(a: np.ndarray, pivot: np.ndarray, x: np.ndarray) -> None:
    """Solve with the factors of :func:`factor`, in place; x (n,)."""
    n = a.shape[0]
    for j in range(n):
        if pivot[j] != j:
            x[j], x[pivot[j]] = x[pivot[j]], x[j]
        for i in range(j + 1, n):
            x[i] -= a[i, j] * x[j]
    for j in range(n - 1, -1, -1):
        x[j] /= a[j, j]
        for i in range(j):
            x[i] -= a[i, j] * x[j]


@njit(nogil=True, error_model="numpy")
def _newton_matrix(a: np.ndarray, hg: float) -> None:
    """a ← I - hγ a in place."""
    for i in range(a.shape[0]):
        for j in range(a.shape[0]):
            a[i, j] *= -hg
        a[i, i] += 1.0


def make_step(
    n: int, m: int, rhs: Compiled, jacobian: Compiled, parameter_jacobian: Compiled, linear: bool
) -> Compiled:
    """The function that takes one step of a model with n states and m parameters.

    n and m are constants in it, so its loops unroll. ``linear``: the equations are, so Newton's first iterate is the
    solution.
    """

    @njit(nogil=True, error_model="numpy")
    def step_once(t, h, y, sens, p, rate, scale, w):  # type: ignore[no-untyped-def]
        """One step from y (and sens) with k[0] known: scaled error estimate; the end is left in w.z, w.zs."""
        k, ks, z, zs, base, bases, lu, pivot, delta, column, lus, pivots = w
        hg = h * GAMMA
        jacobian(t, y, p, lu)
        _newton_matrix(lu, hg)
        if not factor(lu, pivot):
            return math.inf
        for stage in range(1, STAGES):
            ts = t + C[stage] * h
            for i in range(n):
                total = 0.0
                for j in range(stage):
                    total += A[stage, j] * k[j, i]
                base[i] = y[i] + h * total
                z[i] = base[i] + hg * k[stage - 1, i]
            previous, converged = 0.0, False
            for iteration in range(CHORD + NEWTON):
                if iteration >= CHORD:  # slow with the Jacobian of the step's start: take the one here
                    jacobian(ts, z, p, lu)
                    _newton_matrix(lu, hg)
                    if not factor(lu, pivot):
                        return math.inf
                rhs(ts, z, p, delta)
                for i in range(n):
                    delta[i] = z[i] - base[i] - hg * (delta[i] + rate[i])
                substitute(lu, pivot, delta)
                change = 0.0
                for i in range(n):
                    z[i] -= delta[i]
                    change = max(change, abs(delta[i]) / scale[i])
                # (NaN never converges)
                if linear or change < SOLVED or (iteration > 0 and change * change < SOLVED * (previous - change)):
                    converged = change < math.inf
                    break
                previous = change
            if not converged:
                return math.inf
            for i in range(n):
                k[stage, i] = (z[i] - base[i]) / hg
            if sens.size > 0:
                for i in range(n):
                    for q in range(m):
                        total = 0.0
                        for j in range(stage):
                            total += A[stage, j] * ks[j, i, q]
                        bases[i, q] = sens[i, q] + h * total
                jacobian(ts, z, p, lus)
                _newton_matrix(lus, hg)
                if not factor(lus, pivots):
                    return math.inf
                parameter_jacobian(ts, z, p, zs)
                for q in range(m):
                    for i in range(n):
                        column[i] = bases[i, q] + hg * zs[i, q]
                    substitute(lus, pivots, column)
                    for i in range(n):
                        zs[i, q] = column[i]
                        ks[stage, i, q] = (column[i] - bases[i, q]) / hg
        for i in range(n):
            total = 0.0
            for j in range(STAGES):
                total += ERROR[j] * k[j, i]
            delta[i] = h * total
        substitute(lu, pivot, delta)  # damps the stiff part of the estimate (Shampine's filter)
        error = 0.0
        for i in range(n):
            error = max(error, abs(delta[i]) / scale[i])
        return error if error == error else math.inf

    return step_once


def make_advance(step_once: Compiled, rhs: Compiled, jacobian: Compiled, parameter_jacobian: Compiled) -> Compiled:
    """The function that integrates from one breakpoint or observation to the next."""

    @njit(nogil=True, error_model="numpy")
    def advance(t, end, y, sens, p, rate, size, step, tolerance, w):  # type: ignore[no-untyped-def]
        """Integrate y (n,) and sens (n, m) in place from t to end; next step size, or a negative number on failure."""
        k, ks, z, zs, _, _, lu, _, _, _, _, _ = w
        n, m = y.size, sens.shape[1]
        scale = np.empty(n)
        rhs(t, y, p, k[0])
        for i in range(n):
            k[0, i] += rate[i]
        if m > 0:
            jacobian(t, y, p, lu)
            parameter_jacobian(t, y, p, ks[0])
            for i in range(n):
                for q in range(m):
                    for j in range(n):
                        ks[0, i, q] += lu[i, j] * sens[j, q]
        if step <= 0.0:  # after a jump: a step over which no state changes by more than a hundredth
            step = end - t
            for i in range(n):
                if k[0, i] != 0.0:
                    step = min(step, 0.01 * max(size[i], abs(y[i]), 1e-3 * np.max(size)) / abs(k[0, i]))
            step = max(step, 1e-6 * (end - t))
        for _ in range(MAX_STEPS):
            rest = end - t
            h = step
            last = h >= 0.999 * rest
            if last:
                h = rest
            elif 2.0 * h > rest:
                h = 0.5 * rest
            if t + h == t and not last:
                return -1.0
            for i in range(n):
                scale[i] = tolerance * max(size[i], abs(y[i]), abs(h * k[0, i]), 1e-300)
            error = step_once(t, h, y, sens, p, rate, scale, w)
            if error <= 1.0:
                t += h
                for i in range(n):
                    y[i] = z[i]
                    size[i] = max(size[i], abs(y[i]))
                    k[0, i] = k[STAGES - 1, i]
                    for q in range(m):
                        sens[i, q] = zs[i, q]
                        ks[0, i, q] = ks[STAGES - 1, i, q]
                grown = h * min(GROWTH, 0.85 / math.sqrt(math.sqrt(error + 1e-12)))
                step = max(step, grown) if last else grown
                if last:
                    return step
            else:
                step = h * max(0.15, 0.85 / math.sqrt(math.sqrt(error)))
        return -1.0

    return advance


def make_solve(
    n_states: int, n_parameters: int, rhs: Compiled, jacobian: Compiled, parameter_jacobian: Compiled, linear: bool,
    initial: Compiled, initial_gradient: Compiled, output: Compiled, output_gradient: Compiled,
) -> Compiled:  # fmt: skip
    """The function that runs subjects through a schedule, for one model's compiled functions.

    The parts are closures over the model's functions, not functions that take them: only then can numba keep the
    whole in its on-disk cache.
    """
    advance = make_advance(
        make_step(n_states, n_parameters, rhs, jacobian, parameter_jacobian, linear), rhs, jacobian, parameter_jacobian
    )

    @njit(nogil=True, error_model="numpy")
    def solve(  # type: ignore[no-untyped-def]
        parameters, when, bolus, rate, times, before, tolerance, out, gradient,
    ):  # fmt: skip
        """Predictions, and their gradients if ``gradient`` is not empty, of every subject under one design.

        Arguments as in :func:`models.nlme.kernels.depot_central.solve`, and ``gradient`` (n, T, p) float64 or
        (n, 0, 0): receives the derivative of each prediction with respect to the individual parameters. Returns the
        first failed row or -1.
        """
        n, m = bolus.shape[1], gradient.shape[2]
        w = (
            np.zeros((STAGES, n)),  # k: derivative at each stage
            np.zeros((STAGES, n, m)),  # ks: its sensitivity
            np.zeros(n),  # z: state of the stage
            np.zeros((n, m)),  # zs
            np.zeros(n),  # base: what the earlier stages give
            np.zeros((n, m)),  # bases
            np.zeros((n, n)),  # lu
            np.zeros(n, dtype=np.int64),  # pivot
            np.zeros(n),  # delta
            np.zeros(n),  # column
            np.zeros((n, n)),  # lus
            np.zeros(n, dtype=np.int64),  # pivots
        )
        y, sens, size, no_rate, direct = np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros(n), np.zeros(m)
        for row in range(parameters.shape[0]):
            p = parameters[row]
            t = times[0] if when.size == 0 else min(times[0], when[0])
            initial(p, y)
            if m > 0:
                initial_gradient(p, sens)
            for i in range(n):
                size[i] = abs(y[i])
            step, event, current = 0.0, 0, no_rate
            for j in range(times.size):
                while event < before[j]:
                    if n > 0 and when[event] > t:
                        step = advance(
                            t, when[event], y, sens, p, current, size, step, tolerance, w,
                        )  # fmt: skip
                        if step < 0.0:
                            return row
                        t = when[event]
                    for i in range(n):
                        y[i] += bolus[event, i]
                        size[i] = max(size[i], abs(y[i]))
                    current = rate[event]
                    step = 0.0
                    event += 1
                if n > 0 and times[j] > t:
                    step = advance(
                        t, times[j], y, sens, p, current, size, step, tolerance, w,
                    )  # fmt: skip
                    if step < 0.0:
                        return row
                    t = times[j]
                out[row, j] = output(times[j], y, p)
                if not math.isfinite(out[row, j]):
                    return row
                if m > 0:
                    output_gradient(times[j], y, p, direct, w[8])
                    for q in range(m):
                        total = direct[q]
                        for i in range(n):
                            total += w[8][i] * sens[i, q]
                        gradient[row, j, q] = total
        return -1

    return solve
