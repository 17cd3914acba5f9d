"""What a subject's observations say of its parameters: data(φ) of :mod:`models.nlme.kernels.individual`, row by row."""

from __future__ import annotations

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.compiled import compiled

ADDITIVE, PROPORTIONAL, COMBINED1, COMBINED2, POWER, LOG_ERROR = range(6)  # residual.KINDS, in that order
FAR = -25.0  # standard deviations below which the normal tail is taken from its asymptotic series


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
def data_terms(  # type: ignore[no-untyped-def]
    kinds, error, interaction, data, r0, f, at, g, first, second
) -> float:
    """data(φ) of the rows from r0 on, its gradient ``first`` (p,) and the expected curvature ``second`` = B (p, p).

    ``at`` (T,): the predictions at which variances are taken: f itself with interaction, f(η = 0) without. A censored
    row counts with the probability of what is below its limit (Beal 2001, J Pharmacokinet Pharmacodyn 28:481, M3), and
    with the curvature of that in the direction of G.
    """
    n_p = first.size
    for a in range(n_p):
        first[a] = 0.0
        for b in range(n_p):
            second[a, b] = 0.0
    total = 0.0
    for j in range(f.size):
        y, e = data.observed[r0 + j], data.endpoint[r0 + j]
        kind = kinds[e]
        r, r1 = variance(kind, error[3 * e : 3 * e + 3], at[j])
        if not interaction:
            r1 = 0.0
        scale, residual = 1.0, y - f[j]
        if kind == LOG_ERROR:
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
            pull = -hazard * slope
            weight = hazard * (hazard + z) * slope * slope
        else:
            total += 0.5 * (residual * residual / r + math.log(r))
            pull = -residual / r + 0.5 * r1 * (1.0 / r - residual * residual / (r * r))
            weight = 1.0 / r + 0.5 * r1 * r1 / (r * r)
        for a in range(n_p):
            ga = g[j, a] * scale
            first[a] += pull * ga
            for b in range(a + 1):
                second[a, b] += weight * ga * g[j, b] * scale
    for a in range(n_p):
        for b in range(a):
            second[b, a] = second[a, b]
    return total if total == total else math.inf
