"""Likelihood of a subject's observations: data(φ) of :mod:`models.nlme.kernels.individual`, row by row."""

import math

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import compiled, inlined, zero, zero2
from image_longitudinal.models.nlme.model.residual_error import KINDS

PROPORTIONAL, COMBINED1, COMBINED2, POWER, LOG_NORMAL_ERROR, LIKELIHOOD = (
    KINDS.index(kind) for kind in ("proportional", "combined1", "combined2", "power", "log-normal", "likelihood")
)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
FAR = -25.0  # standard deviations; further out the normal tail is computed by its asymptotic series


@inlined
def variance(kind: int, a: float, b: float, c: float, f: float) -> tuple[float, float]:
    """Residual variance at prediction f and its derivative; a, b, c: additive, proportional, power."""
    if kind == PROPORTIONAL:
        return b * b * f * f, 2.0 * b * b * f
    if kind == COMBINED1:
        sd = a + b * abs(f)
        return sd * sd, 2.0 * sd * b * (1.0 if f >= 0.0 else -1.0)
    if kind == COMBINED2:
        return a * a + b * b * f * f, 2.0 * b * b * f
    if kind == POWER:
        r = b * b * abs(f) ** (2.0 * c)
        return r, 2.0 * c * r / f if f != 0.0 else 0.0
    return a * a, 0.0


@compiled
def log_tail(z: float) -> tuple[float, float]:
    """log Φ(z) and its derivative φ(z) / Φ(z)."""
    if z > FAR:
        below = 0.5 * math.erfc(-z * math.sqrt(0.5))
        return math.log(below), math.exp(-0.5 * z * z) / (math.sqrt(2.0 * math.pi) * below)
    u = 1.0 / (z * z)
    series = 1.0 - u + 3.0 * u * u - 15.0 * u * u * u
    return -0.5 * z * z - math.log(-z * math.sqrt(2.0 * math.pi)) + math.log(series), -z / series


@inlined
def data_terms(  # type: ignore[no-untyped-def]
    rows, error, r0, n_rows, f, g, f0, first, second, logarithms=True
) -> float:
    """data(φ) of the rows from r0 on, its gradient ``first`` (p,) and the expected curvature ``second`` = B (p, p).

    ``rows``: kernels.records.Rows. ``error``: of the residuals. Predictions f and their derivatives g (·, p) are those
    from f0 on. A censored row contributes the probability of values below its limit (Beal 2001, J Pharmacokinet
    Pharmacodyn 28:481, M3) and its curvature in the direction of G. Of an endpoint with a likelihood, f is the log
    density itself, and the outer product of its gradient stands for the curvature. Without ``logarithms`` the value
    lacks those of the variances, which the derivatives do not need.
    """
    kinds, interaction, observed, endpoint, censored, typical = rows
    n_p, total = first.size, 0.0
    zero(first)
    zero2(second)
    for j in range(n_rows):
        e, y, scale, fj = endpoint[r0 + j], observed[r0 + j], 1.0, f[f0 + j]
        kind = kinds[e]
        if kind == LIKELIHOOD:  # f is the log density
            total -= fj
            slope_f, weight = -1.0, 1.0
        else:
            at = fj if interaction else typical[r0 + j]
            r, r1 = variance(kind, error[3 * e], error[3 * e + 1], error[3 * e + 2], at)
            if not interaction:
                r1 = 0.0
            residual = y - fj
            if kind == LOG_NORMAL_ERROR:
                if not fj > 0.0:
                    return math.inf
                scale, residual = 1.0 / fj, math.log(y / fj)
            if not r > 0.0:
                return math.inf
            if censored[r0 + j]:
                sd = math.sqrt(r)
                z = residual / sd
                log_below, hazard = log_tail(z)
                slope = -1.0 / sd - 0.5 * z * r1 / r  # dz / df
                total -= log_below
                slope_f = -hazard * slope
                weight = hazard * (hazard + z) * slope * slope
            else:
                inverse = 1.0 / r
                squared, relative = residual * residual * inverse, r1 * inverse
                total += 0.5 * squared
                if logarithms:
                    total += 0.5 * math.log(r)
                slope_f = 0.5 * relative * (1.0 - squared) - residual * inverse
                weight = inverse + 0.5 * relative * relative
        slope_f, weight = slope_f * scale, weight * scale * scale
        for a in range(n_p):
            ga = g[f0 + j, a]
            first[a] += slope_f * ga
            ga *= weight
            for b in range(a + 1):
                second[a, b] += ga * g[f0 + j, b]
    for a in range(n_p):
        for b in range(a):
            second[b, a] = second[a, b]
    return total if total == total else math.inf


@inlined
def variance_by_error(kind: int, a: float, b: float, c: float, f: float) -> tuple[float, float, float]:
    """Derivatives of :func:`variance` by the logarithms of a, b and c."""
    if kind == PROPORTIONAL:
        return 0.0, 2.0 * b * b * f * f, 0.0
    if kind == COMBINED1:
        sd = a + b * abs(f)
        return 2.0 * sd * a, 2.0 * sd * b * abs(f), 0.0
    if kind == COMBINED2:
        return 2.0 * a * a, 2.0 * b * b * f * f, 0.0
    if kind == POWER:
        r = b * b * abs(f) ** (2.0 * c)
        return 0.0, 2.0 * r, 2.0 * c * r * math.log(abs(f)) if f != 0.0 else 0.0
    return 2.0 * a * a, 0.0, 0.0


@cached_kernel
def subject_densities(  # type: ignore[no-untyped-def]
    kinds, error, observed, endpoint, censored, row_start, f, out, by_error
):
    """``out`` (n,) ← log density of each subject's rows at predictions f (N,).

    A censored row contributes the probability of values below its limit (M3; Beal 2001, J Pharmacokinet
    Pharmacodyn 28:481). -inf where a prediction makes an observation impossible.

    ``kinds``: of residual error by endpoint, places in model.residual_error.KINDS; ``error``: additive, proportional
    and power of each endpoint in turn; ``observed``, ``endpoint``, ``censored``, ``row_start``: as in PopulationData.
    ``by_error`` (n, 3 per endpoint), or without rows: receives the derivatives by the logarithms of ``error``, of no
    meaning where ``out`` is -inf.
    """
    differentiate = by_error.shape[0] > 0
    for i in range(out.size):
        total = 0.0
        if differentiate:
            for s in range(error.size):
                by_error[i, s] = 0.0
        for j in range(row_start[i], row_start[i + 1]):
            y, e = observed[j], endpoint[j]
            kind = kinds[e]
            if kind == LIKELIHOOD:
                total += f[j]
                continue
            a, b, c = error[3 * e], error[3 * e + 1], error[3 * e + 2]
            r, _ = variance(kind, a, b, c, f[j])
            residual = y - f[j]
            if kind == LOG_NORMAL_ERROR:
                if not f[j] > 0.0:
                    total = -math.inf
                    break
                residual = math.log(y / f[j])
            if not r > 0.0:
                total = -math.inf
                break
            if censored[j]:
                z = residual / math.sqrt(r)
                log_below, hazard = log_tail(z)
                total += log_below
                by_r = -0.5 * hazard * z / r
            else:
                squared = residual * residual / r
                total -= 0.5 * (squared + math.log(r)) + HALF_LOG_2PI
                if kind == LOG_NORMAL_ERROR:
                    total -= math.log(y)
                by_r = 0.5 * (squared - 1.0) / r
            if differentiate:
                by_a, by_b, by_c = variance_by_error(kind, a, b, c, f[j])
                by_error[i, 3 * e] += by_r * by_a
                by_error[i, 3 * e + 1] += by_r * by_b
                by_error[i, 3 * e + 2] += by_r * by_c
        out[i] = total if total == total else -math.inf
