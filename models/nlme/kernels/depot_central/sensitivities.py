"""One subject at a time, with the derivatives of the computed solution with respect to ka, imax and ic50.

The formula is the (2, 3) one, of order 5; the defect of the (2, 2) formula in its result estimates the error. Every
step's defect is differentiated, so the derivatives are those of the computed solution, at its step sizes.
"""

import math
from typing import Any

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.depot_central import breakpoints as at

# With growth limited to 2 the largest global error of 200,000 random subjects was 2.1e-7; growth up to 5 saved 1 % of
# the time, but steps missed the corner where elimination leaves saturation (errors of 1e-4).
GROWTH = 2.0
MAX_STEPS = 100_000  # random subjects need about 55
NEWTON = 8


@cached_kernel
def _closed_root(r: float, w: float, km: float) -> float:
    """Non-negative root y of y + w·y/(km + y) = r for r ≥ 0: one implicit Euler stage in closed form."""
    p = r - km - w
    s = math.sqrt(p * p + 4.0 * r * km)
    return 0.5 * (p + s) if p >= 0.0 else 2.0 * r * km / (s - p)


@cached_kernel
def _advance(
    t: float, end: float, y: float, depot: float, step: float,
    ka: float, v: float, km: float, depot_rate: float, central_rate: float, tolerance: float,
    sens: np.ndarray,
) -> tuple[float, float, float, bool]:  # fmt: skip
    """Integrate from t to end; returns (y, depot, next step size, success).

    ``sens`` (4,) is updated in place: derivatives of y with respect to ka, v and km, of the depot with respect to ka.
    """
    plateau = depot_rate / ka
    vk = v * km
    u = 1.0 / (km + y)
    g1 = vk * u * u
    f = ka * depot + central_rate - v * y * u
    fp = ka * (depot_rate - ka * depot) - g1 * f
    partial = _partials(y, u, f, fp, ka, v, km, depot, depot_rate, sens[3])
    df1 = g1 * g1 + 2.0 * g1 * u * f
    f_ka, fp_ka = partial[0] - g1 * sens[0], partial[1] + df1 * sens[0]
    f_v, fp_v = partial[3] - g1 * sens[1], partial[4] + df1 * sens[1]
    f_km, fp_km = partial[6] - g1 * sens[2], partial[7] + df1 * sens[2]
    for _ in range(MAX_STEPS):
        rest = end - t
        h = step
        last = h >= 0.999 * rest
        if last:
            h = rest
        elif 2.0 * h > rest:
            h = 0.5 * rest
        if t + h == t and not last:
            return y, depot, step, False
        decay = math.exp(-ka * h)
        depot_new = plateau + (depot - plateau) * decay
        inflow = ka * depot_new + central_rate
        inflow1 = ka * (depot_rate - ka * depot_new)
        inflow2 = -ka * inflow1
        h1, h2, h3 = 0.6 * h, 0.15 * h * h, h * h * h / 60.0
        known = y + h * (0.4 * f + 0.05 * h * fp)
        z = _closed_root(max(0.0, y + 0.4 * h * f + h1 * inflow), h1 * v, km)
        fz, slope, previous, converged = 0.0, 1.0, 0.0, False
        for iteration in range(NEWTON):
            u = 1.0 / (km + z)
            g1 = vk * u * u  # derivatives of the elimination with respect to y
            g2 = -2.0 * g1 * u
            g3 = -3.0 * g2 * u
            fz = inflow - v * z * u  # y', y'', y''' at the end of the step
            f1 = inflow1 - g1 * fz
            f2 = inflow2 - g2 * fz * fz - g1 * f1
            df1 = g1 * g1 - g2 * fz
            df2 = (2.0 * g1 * g2 - g3 * fz) * fz - g2 * f1 - g1 * df1
            slope = 1.0 + h1 * g1 + h2 * df1 - h3 * df2
            new = max(0.0, z - (z - h1 * fz + h2 * f1 - h3 * f2 - known) / slope)
            change = abs(new - z)
            z = new
            # quadratic convergence: the next change would be about change² / (previous change)
            if change < 0.01 * tolerance or (iteration > 0 and change * change < 0.01 * tolerance * previous):
                converged = True
                break
            previous = change
        error = math.inf
        if converged and slope > 0.0:
            u = 1.0 / (km + z)
            g1 = vk * u * u
            fz = inflow - v * z * u
            f1 = inflow1 - g1 * fz
            error = abs(z - y - 0.5 * h * (f + fz) + h * h / 12.0 * (f1 - fp)) / slope
        if error <= tolerance:
            plateau_ka = -plateau / ka
            sens[3] = plateau_ka + (sens[3] - plateau_ka - (depot - plateau) * h) * decay
            partial = _partials(z, u, fz, f1, ka, v, km, depot_new, depot_rate, sens[3])
            df1 = g1 * g1 + 2.0 * g1 * u * fz
            start = sens[0] + h * (0.4 * f_ka + 0.05 * h * fp_ka)
            sens[0] = (start + h1 * partial[0] - h2 * partial[1] + h3 * partial[2]) / slope
            start = sens[1] + h * (0.4 * f_v + 0.05 * h * fp_v)
            sens[1] = (start + h1 * partial[3] - h2 * partial[4] + h3 * partial[5]) / slope
            start = sens[2] + h * (0.4 * f_km + 0.05 * h * fp_km)
            sens[2] = (start + h1 * partial[6] - h2 * partial[7] + h3 * partial[8]) / slope
            f_ka, fp_ka = partial[0] - g1 * sens[0], partial[1] + df1 * sens[0]
            f_v, fp_v = partial[3] - g1 * sens[1], partial[4] + df1 * sens[1]
            f_km, fp_km = partial[6] - g1 * sens[2], partial[7] + df1 * sens[2]
            t, y, depot, f, fp = t + h, z, depot_new, fz, f1
            grown = h * min(GROWTH, 0.85 * math.sqrt(math.sqrt(tolerance / (error + 1e-30))))
            step = max(step, grown) if last else grown
            if last:
                return y, depot, step, True
        else:
            step = h * max(0.15, 0.85 * math.sqrt(math.sqrt(tolerance / error)))
    return y, depot, step, False


@cached_kernel
def _partials(
    y: float, u: float, f: float, f1: float, ka: float, v: float, km: float,
    depot: float, depot_rate: float, depot_ka: float,
) -> tuple[float, float, float, float, float, float, float, float, float]:  # fmt: skip
    """Derivatives of (y', y'', y''') with respect to ka, then v, then km, at fixed y; u = 1 / (km + y)."""
    u2 = u * u
    g1 = v * km * u2
    g2 = -2.0 * g1 * u
    slope = depot_rate - ka * depot
    f_ka = depot + ka * depot_ka
    rate1_ka = slope - ka * f_ka
    f1_ka = rate1_ka - g1 * f_ka
    f2_ka = -ka * slope - ka * rate1_ka - 2.0 * g2 * f * f_ka - g1 * f1_ka
    f_v = -y * u
    f1_v = -km * u2 * f - g1 * f_v
    f2_v = 2.0 * km * u2 * u * f * f - 2.0 * g2 * f * f_v - km * u2 * f1 - g1 * f1_v
    f_km = v * y * u2
    g1_km = v * u2 * (1.0 - 2.0 * km * u)
    g2_km = v * u2 * u * (6.0 * km * u - 2.0)
    f1_km = -g1_km * f - g1 * f_km
    f2_km = -g2_km * f * f - 2.0 * g2 * f * f_km - g1_km * f1 - g1 * f1_km
    return f_ka, f1_ka, f2_ka, f_v, f1_v, f2_v, f_km, f1_km, f2_km


@cached_kernel
def differentiate(
    parameters: np.ndarray, data: Any, start: int, shared: bool, tolerance: float,
    out: np.ndarray, gradient: np.ndarray,
) -> int:  # fmt: skip
    """Predictions (N,) and their derivatives (N, 3); the first row that failed, or -1."""
    breakpoints, start_of, largest = at.breakpoints_of(data, start, start + (1 if shared else len(parameters)))
    row_start = data.row_start
    state, position = at.new_lanes()
    sens = np.empty(4)
    offset = 0
    for row in range(parameters.shape[0]):
        subject = 0 if shared else row
        at.load_subject(state, position, 0, parameters[row], breakpoints, start_of, largest, subject, offset, tolerance)
        offset += row_start[start + subject + 1] - row_start[start + subject]
        sens[:] = 0.0
        while at.apply_events(state, position, 0, breakpoints, out, gradient, sens):
            y, depot, step, good = _advance(
                state[at.TIME], state[at.BREAKPOINT], state[at.CENTRAL], state[at.DEPOT], state[at.STEP], state[at.KA],
                state[at.V], state[at.KM], state[at.DEPOT_RATE], state[at.CENTRAL_RATE], state[at.BOUND], sens,
            )  # fmt: skip
            if not (good and math.isfinite(y)):
                return row
            state[at.CENTRAL], state[at.DEPOT], state[at.STEP], state[at.TIME] = y, depot, step, state[at.BREAKPOINT]
    return -1
