"""Adaptive integrator for stiff generated models, with the exact derivative of its own steps.

ESDIRK4(3)6L[2]SA (Kennedy & Carpenter, NASA/TM-2016-219173; the implicit part of ARK4(3)6L[2]SA, 2003): six stages,
the first explicit, order 4 with an embedded order 3, L-stable, stiffly accurate, stage order 2. Each stage is solved
by Newton's method with the symbolic Jacobian; the sensitivities to the parameters obey the same stages, differentiated,
so they are the derivative of the computed solution at its step sizes, not a separate approximation.

``rhs``, ``jacobian``, ... are compiled functions written by :mod:`models.nlme.kernels.codegen`.
"""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.compiled import Compiled, compiled, norm
from image_longitudinal.models.nlme.kernels.records import IMPLICIT_STAGES, IS_STIFF, REACHED, STEP_SIZE

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
STAGES = IMPLICIT_STAGES
CHORD, NEWTON = 4, 8  # iterations of a stage with the step's first Jacobian, then with its own
SOLVED = 0.01  # change of a stage, in units of the tolerance, at which Newton's method has converged
GROWTH = 3.0
ROUNDING = 1e-16  # of the largest state: solving mixes so much of it into the others, also into one that stays 0
NOT_STIFF = 1.0  # step times norm of the Jacobian below which a model is no longer stiff
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

    n and m are constants in it, so its loops unroll. ``linear``: the equations are linear, so that Newton's first
    iterate is the solution.
    """

    @compiled
    def step_once(t, h, state, p, w):  # type: ignore[no-untyped-def]
        """One step from the state with k[0] known: scaled error estimate; ``w.z``, ``w.z_by`` hold the new state."""
        y, y_by, _, rate, rate_by = state
        k, k_by, z, z_by, base, base_by, lu, pivot = w.k, w.k_by, w.z, w.z_by, w.base, w.base_by, w.lu, w.pivot
        scale, column, lu_by, pivot_by, delta = w.scale, w.column, w.lu_by, w.pivot_by, w.explicit_k[0]
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
                if iteration >= CHORD:  # slow with the Jacobian of the step's start: evaluate it here
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
            if y_by.size > 0:
                for i in range(n):
                    for q in range(m):
                        total = 0.0
                        for j in range(stage):
                            total += A[stage, j] * k_by[j, i, q]
                        base_by[i, q] = y_by[i, q] + h * total
                jacobian(ts, z, p, lu_by)
                _newton_matrix(lu_by, hg)
                if not factor(lu_by, pivot_by):
                    return math.inf
                parameter_jacobian(ts, z, p, z_by)
                for q in range(m):
                    for i in range(n):
                        column[i] = base_by[i, q] + hg * (z_by[i, q] + rate_by[i, q])
                    substitute(lu_by, pivot_by, column)
                    for i in range(n):
                        z_by[i, q] = column[i]
                        k_by[stage, i, q] = (column[i] - base_by[i, q]) / hg
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

    Without sensitivities it uses ``explicit`` (kernels.dop853) until that finds the model stiff, and again once steps
    are so short that it is not.
    """
    step_once = make_step(n, m, rhs, jacobian, parameter_jacobian, linear)

    @compiled
    def advance(t, end, state, p, step, tolerance, w):  # type: ignore[no-untyped-def]
        """Integrate the state in place from t to end, also backwards; the next step size, negative on failure."""
        y, y_by, size, rate, rate_by = state
        k, k_by, z, z_by, lu, scale = w.k, w.k_by, w.z, w.z_by, w.lu, w.scale
        m = y_by.shape[1]
        sign = 1.0 if end >= t else -1.0
        rhs(t, y, p, k[0])
        for i in range(n):
            k[0, i] += rate[i]
        if m > 0:
            jacobian(t, y, p, lu)
            parameter_jacobian(t, y, p, k_by[0])
            for i in range(n):
                for q in range(m):
                    k_by[0, i, q] += rate_by[i, q]
                    for j in range(n):
                        k_by[0, i, q] += lu[i, j] * y_by[j, q]
        if step <= 0.0:  # after a jump: a step over which no state changes by more than a hundredth
            step, largest = sign * (end - t), 0.0
            for i in range(n):
                largest = max(largest, size[i])
            for i in range(n):
                if k[0, i] != 0.0:
                    step = min(step, 0.01 * max(size[i], abs(y[i]), 1e-3 * largest) / abs(k[0, i]))
            step = max(step, 1e-6 * sign * (end - t))
        if m == 0 and w.explicit[IS_STIFF] == 0.0:
            explicit(t, end, state, p, step, tolerance, w)
            t, step = w.explicit[REACHED], w.explicit[STEP_SIZE]
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
            largest = 0.0
            for i in range(n):
                largest = max(largest, size[i], abs(y[i]))
            for i in range(n):
                scale[i] = tolerance * max(size[i], abs(y[i]), abs(h * k[0, i]), ROUNDING * largest, 1e-300)
            error = step_once(t, sign * h, state, p, w)
            if error <= 1.0:
                t += sign * h
                for i in range(n):
                    y[i] = z[i]
                    size[i] = max(size[i], abs(y[i]))
                    k[0, i] = k[STAGES - 1, i]
                    for q in range(m):
                        y_by[i, q] = z_by[i, q]
                        k_by[0, i, q] = k_by[STAGES - 1, i, q]
                grown = h * min(GROWTH, 0.85 / math.sqrt(math.sqrt(error + 1e-12)))
                step = max(step, grown) if last else grown
                if last:
                    if m == 0:
                        jacobian(t, y, p, lu)
                        w.explicit[IS_STIFF] = 1.0 if norm(lu) * step > NOT_STIFF else 0.0
                    return step
            else:
                step = h * max(0.15, 0.85 / math.sqrt(math.sqrt(error)))
        return -1.0

    return advance
