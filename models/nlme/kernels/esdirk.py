"""Stiff-safe adaptive integrator for generated models, with the exact derivative of its own steps.

ESDIRK4(3)6L[2]SA (Kennedy & Carpenter, NASA/TM-2016-219173; the implicit part of ARK4(3)6L[2]SA, 2003): six stages,
the first explicit, order 4 with an embedded order 3, L-stable, stiffly accurate, stage order 2. Each stage is solved
by Newton's method with the symbolic Jacobian; the sensitivities to the parameters obey the same stages, differentiated,
so they are the derivative of the computed solution at its step sizes, not a separate approximation.

``rhs``, ``jacobian``, ... are compiled functions written by :mod:`models.nlme.kernels.codegen`.
"""

from __future__ import annotations

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.compiled import Compiled, compiled, norm

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
CALM = 1.0  # step times norm of the Jacobian below which a model is no longer stiff
EXPLICIT_STAGES = 12
TIME, STEP, IS_STIFF = range(3)  # of the explicit integrator's state
MAX_STEPS = 200_000
TOLERANCE = 2e-8  # per step, relative to the largest size each state has had: global errors stay below 1e-6


@compiled
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


@compiled
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


@compiled
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

    @compiled
    def step_once(t, h, y, sens, p, rate, rate_by, scale, w):  # type: ignore[no-untyped-def]
        """One step from y (and sens) with k[0] known: scaled error estimate; the end is left in w.z, w.zs."""
        _, stages, k, ks, z, zs, base, bases, lu, pivot, _, column, lus, pivots = w
        delta = stages[0]
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
                        column[i] = bases[i, q] + hg * (zs[i, q] + rate_by[i, q])
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


def make_advance(
    n: int, m: int, rhs: Compiled, jacobian: Compiled, parameter_jacobian: Compiled, linear: bool, explicit: Compiled
) -> Compiled:
    """The function that integrates a model with n states and m parameters over a time without jumps.

    Without sensitivities it goes by ``explicit`` (kernels.dop853) until that finds the model stiff, and again once
    steps are so short that it no longer is.
    """
    step_once = make_step(n, m, rhs, jacobian, parameter_jacobian, linear)

    @compiled
    def advance(t, end, y, sens, p, rate, rate_by, size, step, tolerance, w):  # type: ignore[no-untyped-def]
        """Integrate y (n,) and sens (n, m) in place from t to end, also backwards.

        ``rate`` (n,): infusion rates, ``rate_by`` (n, m) their sensitivities, ``size`` (n,) the largest size each state
        has had. Returns the next step size, or a negative number on failure.
        """
        state, stages, k, ks, z, zs, _, _, lu, _, scale, _, _, _ = w
        m = sens.shape[1]
        sign = 1.0 if end >= t else -1.0
        rhs(t, y, p, k[0])
        for i in range(n):
            k[0, i] += rate[i]
        if m > 0:
            jacobian(t, y, p, lu)
            parameter_jacobian(t, y, p, ks[0])
            for i in range(n):
                for q in range(m):
                    ks[0, i, q] += rate_by[i, q]
                    for j in range(n):
                        ks[0, i, q] += lu[i, j] * sens[j, q]
        if step <= 0.0:  # after a jump: a step over which no state changes by more than a hundredth
            step, largest = sign * (end - t), 0.0
            for i in range(n):
                largest = max(largest, size[i])
            for i in range(n):
                if k[0, i] != 0.0:
                    step = min(step, 0.01 * max(size[i], abs(y[i]), 1e-3 * largest) / abs(k[0, i]))
            step = max(step, 1e-6 * sign * (end - t))
        if m == 0 and state[IS_STIFF] == 0.0:
            explicit(t, end, y, p, rate, size, step, tolerance, state, stages, z, lu)
            t, step = state[TIME], state[STEP]
            if t == end:
                return step
            rhs(t, y, p, k[0])
            for i in range(n):
                k[0, i] += rate[i]
        for _ in range(MAX_STEPS):
            rest = sign * (end - t)
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
            error = step_once(t, sign * h, y, sens, p, rate, rate_by, scale, w)
            if error <= 1.0:
                t += sign * h
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
                    if m == 0:
                        jacobian(t, y, p, lu)
                        state[IS_STIFF] = 1.0 if norm(lu) * step > CALM else 0.0
                    return step
            else:
                step = h * max(0.15, 0.85 / math.sqrt(math.sqrt(error)))
        return -1.0

    return advance


@compiled
def workspace(n: int, m: int):  # type: ignore[no-untyped-def]
    """What ``advance`` needs for n states and m sensitivities; its first array is to be 0 for a new subject."""
    return (
        np.zeros(3),  # state of the explicit integrator
        np.zeros((EXPLICIT_STAGES, n)),  # its stages
        np.zeros((STAGES, n)),  # k: derivative at each stage
        np.zeros((STAGES, n, m)),  # ks: its sensitivity
        np.zeros(n),  # z: state of the stage
        np.zeros((n, m)),  # zs
        np.zeros(n),  # base: what the earlier stages give
        np.zeros((n, m)),  # bases
        np.zeros((n, n)),  # lu
        np.zeros(n, dtype=np.int64),  # pivot
        np.zeros(n),  # scale
        np.zeros(n),  # column
        np.zeros((n, n)),  # lus
        np.zeros(n, dtype=np.int64),  # pivots
    )
