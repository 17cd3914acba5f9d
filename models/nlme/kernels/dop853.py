"""Explicit integrator of order 8, used while a model is not stiff (Hairer, Nørsett & Wanner 1993, II.10).

Dormand and Prince's method with twelve stages; its error estimate mixes orders 5 and 3. When stability rather than
accuracy limits its steps (step times norm of the Jacobian), the implicit integrator takes over.
"""

import math

import numpy as np
from scipy.integrate import DOP853

from image_longitudinal.models.nlme.kernels.compiled import Compiled, compiled, norm
from image_longitudinal.models.nlme.kernels.records import EXPLICIT_STAGES, IS_STIFF, REACHED, STEP_SIZE

STAGES = EXPLICIT_STAGES
A, C = np.ascontiguousarray(DOP853.A[:STAGES, :STAGES]), np.ascontiguousarray(DOP853.C[:STAGES])
B, E3, E5 = np.array(DOP853.B), np.array(DOP853.E3[:STAGES]), np.array(DOP853.E5[:STAGES])
GROWTH = 6.0
STABLE = 4.0  # step times norm of the Jacobian above which stability may limit the steps
STIFF = 6  # so many such steps in a row: the model is stiff
MAX_STEPS = 2_000


def make_explicit(n: int, rhs: Compiled, jacobian: Compiled) -> Compiled:
    """The function that integrates a model with n states until its equations become stiff."""

    @compiled
    def explicit(t, end, state, p, step, tolerance, w):  # type: ignore[no-untyped-def]
        """Move the state from t towards end; ``w.explicit`` receives time reached, next step size and stiffness."""
        y, _, size, rate, _ = state
        k, z, jacobian_here = w.explicit_k, w.z, w.lu
        sign, suspicious = 1.0 if end >= t else -1.0, 0
        rhs(t, y, p, k[0])
        for i in range(n):
            k[0, i] += rate[i]
        for _ in range(MAX_STEPS):
            rest = sign * (end - t)
            h = min(step, rest)
            last = h >= 0.999 * rest
            if last:
                h = rest
            elif 2.0 * h > rest:
                h = 0.5 * rest
            move = sign * h
            for stage in range(1, STAGES):
                for i in range(n):
                    total = 0.0
                    for j in range(stage):
                        total += A[stage, j] * k[j, i]
                    z[i] = y[i] + move * total
                rhs(t + C[stage] * move, z, p, k[stage])
                for i in range(n):
                    k[stage, i] += rate[i]
            error5, error3 = 0.0, 0.0
            for i in range(n):
                total, five, three = 0.0, 0.0, 0.0
                for j in range(STAGES):
                    total += B[j] * k[j, i]
                    five += E5[j] * k[j, i]
                    three += E3[j] * k[j, i]
                z[i] = y[i] + move * total
                scale = tolerance * max(size[i], abs(y[i]), 1e-300)
                error5 = max(error5, abs(five) / scale)
                error3 = max(error3, abs(three) / scale)
            mixed = math.sqrt(error5 * error5 + 0.01 * error3 * error3)
            error = h * error5 * error5 / mixed if mixed > 0.0 else 0.0
            if not error < math.inf:
                break
            factor = 0.9 / max(error, 1e-16) ** 0.125
            if error <= 1.0:
                t += move
                for i in range(n):
                    y[i] = z[i]
                    size[i] = max(size[i], abs(y[i]))
                if last:
                    w.explicit[REACHED], w.explicit[STEP_SIZE] = end, max(step, h * min(GROWTH, factor))
                    return
                step = h * min(GROWTH, factor)
                rhs(t, y, p, k[0])
                for i in range(n):
                    k[0, i] += rate[i]
            else:
                step = h * max(0.2, factor)
                if t + sign * step == t:
                    break
            jacobian(t, y, p, jacobian_here)
            suspicious = suspicious + 1 if norm(jacobian_here) * h > STABLE else 0
            if suspicious > STIFF:
                break
        w.explicit[REACHED], w.explicit[STEP_SIZE], w.explicit[IS_STIFF] = t, step, 1.0

    return explicit
