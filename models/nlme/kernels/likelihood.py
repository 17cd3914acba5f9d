"""Likelihood of a subject's observations: data(φ) of :mod:`models.nlme.kernels.individual`, row by row."""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import compiled, zero, zero2
from image_longitudinal.models.nlme.model.residual_error import KINDS

PROPORTIONAL, COMBINED1, COMBINED2, POWER, LOG_NORMAL_ERROR, LIKELIHOOD = (
    KINDS.index(kind) for kind in ("proportional", "combined1", "combined2", "power", "log-normal", "likelihood")
)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
FAR = -25.0  # standard deviations; further out the normal tail is computed by its asymptotic series


@compiled
def variance(kind: int, error: np.ndarray, f: float) -> tuple[float, float]:
    """Residual variance at prediction f and its derivative; ``error``: additive, proportional, power."""
    a, b, c = error[0], error[1], error[2]
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


@compiled
def data_terms(problem, error, r0, f, at, g, first, second) -> float:  # type: ignore[no-untyped-def]
    """data(φ) of the rows from r0 on, its gradient ``first`` (p,) and the expected curvature ``second`` = B (p, p).

    ``error``: used in place of the problem's own. ``at`` (T,): predictions for the residual variances: f itself with
    interaction, f(η = 0) without. A censored row contributes the probability of values below its limit (Beal 2001, J
    Pharmacokinet Pharmacodyn 28:481, M3) and its curvature in the direction of G. Of an endpoint with a likelihood, f
    is the log density itself, and the outer product of its gradient stands for the curvature.
    """
    data = problem.data
    n_p, total = first.size, 0.0
    zero(first)
    zero2(second)
    for j in range(f.size):
        y, e = data.observed[r0 + j], data.endpoint[r0 + j]
        kind = problem.kinds[e]
        if kind == LIKELIHOOD:  # f is the log density
            total -= f[j]
            for a in range(n_p):
                first[a] -= g[j, a]
                for b in range(a + 1):
                    second[a, b] += g[j, a] * g[j, b]
            continue
        r, r1 = variance(kind, error[3 * e : 3 * e + 3], at[j])
        if not problem.interaction:
            r1 = 0.0
        scale, residual = 1.0, y - f[j]
        if kind == LOG_NORMAL_ERROR:
            if not f[j] > 0.0:
                return math.inf
            scale, residual = 1.0 / f[j], math.log(y / f[j])
        if not r > 0.0:
            return math.inf
        if data.censored[r0 + j]:
            sd = math.sqrt(r)
            z = residual / sd
            log_below, hazard = log_tail(z)
            slope = -1.0 / sd - 0.5 * z * r1 / r  # dz / df
            total -= log_below
            slope_f = -hazard * slope
            weight = hazard * (hazard + z) * slope * slope
        else:
            total += 0.5 * (residual * residual / r + math.log(r))
            slope_f = -residual / r + 0.5 * r1 * (1.0 / r - residual * residual / (r * r))
            weight = 1.0 / r + 0.5 * r1 * r1 / (r * r)
        for a in range(n_p):
            ga = g[j, a] * scale
            first[a] += slope_f * ga
            for b in range(a + 1):
                second[a, b] += weight * ga * g[j, b] * scale
    for a in range(n_p):
        for b in range(a):
            second[b, a] = second[a, b]
    return total if total == total else math.inf


@cached_kernel
def subject_densities(kinds, error, observed, endpoint, censored, row_start, f, out):  # type: ignore[no-untyped-def]
    """``out`` (n,) ← log density of each subject's rows at predictions f (N,).

    A censored row contributes the probability of values below its limit (M3; Beal 2001, J Pharmacokinet
    Pharmacodyn 28:481). -inf where a prediction makes an observation impossible.

    ``kinds``: of residual error by endpoint, places in model.residual_error.KINDS; ``error``: additive, proportional
    and power of each endpoint in turn; ``observed``, ``endpoint``, ``censored``, ``row_start``: as in PopulationData.
    """
    for i in range(out.size):
        total = 0.0
        for j in range(row_start[i], row_start[i + 1]):
            y, e = observed[j], endpoint[j]
            if kinds[e] == LIKELIHOOD:
                total += f[j]
                continue
            r, _ = variance(kinds[e], error[3 * e : 3 * e + 3], f[j])
            residual = y - f[j]
            if kinds[e] == LOG_NORMAL_ERROR:
                if not f[j] > 0.0:
                    total = -math.inf
                    break
                residual = math.log(y / f[j])
            if not r > 0.0:
                total = -math.inf
                break
            if censored[j]:
                total += log_tail(residual / math.sqrt(r))[0]
            else:
                total -= 0.5 * (residual * residual / r + math.log(r)) + HALF_LOG_2PI
                if kinds[e] == LOG_NORMAL_ERROR:
                    total -= math.log(y)
        out[i] = total if total == total else -math.inf
