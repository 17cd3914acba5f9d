"""Predictions of ``LANES`` subjects side by side, each at its own time and step size, by vector instructions.

The formula is the (3, 4) one, of order 7; the defect of the (3, 3) formula in its result estimates the error. The
derivatives of y come from the power series of w' = F - V + VK / w for w = K + y (Moore's recurrence: the series of
q = VK / w follows from q w = VK), those of the defect from the series' own derivative. A lane that has finished its
subject loads the next one, so none waits for a stiffer neighbour. A step has no branch, no operation across lanes and
none whose rounding depends on the processor: a subject's bits do not depend on the subjects in the other lanes.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.depot_central import breakpoints as at

GROWTH = 3.0  # of a step, at most
NEWTON = 2  # iterations; a step that needs more is shortened
SOLVED = 0.01  # change in units of the tolerance at which Newton's method counts as converged
FREE, IDLE = -1, -2  # a lane that waits for a subject, one for which there are no more
MAX_STEPS = 100_000  # between two breakpoints; random subjects need 37 in all


@cached_kernel
def predict_lanes(
    parameters: np.ndarray, data: Any, start: int, shared: bool, tolerance: float, out: np.ndarray
) -> int:
    """Predictions (N,) of the rows of parameters (n, 3); the first row that failed, or -1."""
    n, none, no_sens = parameters.shape[0], np.empty((0, 0)), np.empty(0)
    row_start = data.row_start
    breakpoints, start_of, largest = at.breakpoints_of(data, start, start + (1 if shared else n))
    state, position = at.new_lanes()
    row, tries = np.full(at.LANES, FREE), np.zeros(at.LANES, dtype=np.int64)
    following, offset, failed, active = 0, 0, n, at.LANES
    for lane in range(at.LANES):
        state[at.ARRIVED + lane] = 1.0
    while active > 0:
        for lane in range(at.LANES):
            tries[lane] += 1
            if state[at.ARRIVED + lane] == 0.0:
                if row[lane] < 0 or tries[lane] <= MAX_STEPS:
                    continue
                failed = min(failed, row[lane])
                row[lane] = FREE
            tries[lane] = 0
            while row[lane] < 0 or not at.apply_events(state, position, lane, breakpoints, out, none, no_sens):
                if following == n:
                    active -= row[lane] != IDLE
                    row[lane], state[at.TIME + lane] = IDLE, 0.0
                    break
                row[lane], subject = following, 0 if shared else following
                p = parameters[following]
                at.load_subject(state, position, lane, p, breakpoints, start_of, largest, subject, offset, tolerance)
                offset += row_start[start + subject + 1] - row_start[start + subject]
                following += 1
        _step(state)
    return failed if failed < n else -1


@cached_kernel
def _step(state: np.ndarray) -> None:
    """One step of every lane towards its next breakpoint; ``ARRIVED`` is 1 in lanes that reached it."""
    for i in range(at.LANES):  # (compiled to vector instructions: keep it free of branches and calls)
        t, y, depot, bound = state[at.TIME + i], state[at.CENTRAL + i], state[at.DEPOT + i], state[at.BOUND + i]
        ka, v, km = state[at.KA + i], state[at.V + i], state[at.KM + i]
        depot_rate, central_rate = state[at.DEPOT_RATE + i], state[at.CENTRAL_RATE + i]
        rest, wanted = state[at.BREAKPOINT + i] - t, state[at.STEP + i]
        last = wanted >= 0.999 * rest
        h = rest if last else (0.5 * rest if 2.0 * wanted > rest else wanted)
        s, hv = ka * h, h * v
        c = hv * km
        plateau = depot_rate / ka
        depot_new = plateau + (depot - plateau) * _decay(s)

        # series at the start: y1, y2, ... are h y', h² y'' / 2!, ...; f, g h those of the inflow
        u = 1.0 / (km + y)
        q0 = c * u
        g = h * (depot_rate - ka * depot) * s
        y1 = h * (ka * depot + central_rate) - hv * y * u
        q1 = -q0 * y1 * u
        y2 = (g + q1) * (1 / 2)
        q2 = -(q1 * y1 + q0 * y2) * u
        y3 = (q2 - g * s * (1 / 2)) * (1 / 3)
        q3 = -(q2 * y1 + q1 * y2 + q0 * y3) * u
        y4 = (q3 + g * s * s * (1 / 6)) * (1 / 4)
        known = y + (3 / 7) * y1 + (1 / 7) * y2 + (1 / 35) * y3
        known_33 = y + (1 / 2) * y1 + (1 / 5) * y2 + (1 / 20) * y3

        # first guess: the series if it converges fast, else the trapezoidal rule, a quadratic equation
        f = h * (ka * depot_new + central_rate)
        g = h * (depot_rate - ka * depot_new) * s
        g2, g3 = g * s * (-1 / 2), g * s * s * (1 / 6)
        level = y + 0.5 * (y1 + f)
        level = level if level > 0.0 else 0.0
        p = level - km - 0.5 * hv
        root = math.sqrt(p * p + 4.0 * level * km)
        quadratic = 0.5 * (p + root) if p >= 0.0 else 2.0 * level * km / (root - p)
        series = y + y1 + y2 + y3 + y4
        z = series if (q0 * u < 0.7) & (series > 0.0) else quadratic

        change = before = math.inf
        slope = error = 0.0
        for _ in range(NEWTON):
            before = change
            u = 1.0 / (km + z)
            q0 = c * u
            y1 = f - hv * z * u
            q1 = -q0 * y1 * u
            y2 = (g + q1) * (1 / 2)
            q2 = -(q1 * y1 + q0 * y2) * u
            y3 = (g2 + q2) * (1 / 3)
            q3 = -(q2 * y1 + q1 * y2 + q0 * y3) * u
            y4 = (g3 + q3) * (1 / 4)
            r0 = q0 * u  # series of q / w, and of dy / dz
            r1 = (q1 - y1 * r0) * u
            r2 = (q2 - y1 * r1 - y2 * r0) * u
            r3 = (q3 - y1 * r2 - y2 * r1 - y3 * r0) * u
            d1 = -r0
            d2 = (r0 * d1 + r1) * (-1 / 2)
            d3 = (r0 * d2 + r1 * d1 + r2) * (-1 / 3)
            d4 = (r0 * d3 + r1 * d2 + r2 * d1 + r3) * (-1 / 4)
            slope = 1.0 - (4 / 7) * d1 + (2 / 7) * d2 - (4 / 35) * d3 + (1 / 35) * d4
            defect = z - (4 / 7) * y1 + (2 / 7) * y2 - (4 / 35) * y3 + (1 / 35) * y4 - known
            new = z - defect / slope
            new = new if new > 0.0 else 0.0
            move = new - z
            change = abs(move)
            defect_33 = z - (1 / 2) * y1 + (1 / 5) * y2 - (1 / 20) * y3 - known_33
            error = abs(defect_33 + (1.0 - (1 / 2) * d1 + (1 / 5) * d2 - (1 / 20) * d3) * move) / slope
            z = new

        # quadratic convergence: the next change would be about change² / before
        solved = (change < SOLVED * bound) | (change * change < SOLVED * bound * before)
        accepted = solved & (slope > 0.0) & (error <= bound)
        size = bound / (error + 1e-30 if solved & (slope > 0.0) else 1e300)
        factor = 0.85 * math.sqrt(math.sqrt(math.sqrt(size)))
        longer = factor if factor < GROWTH else GROWTH
        shorter = factor if factor > 0.15 else 0.15
        step = h * (longer if accepted else shorter)
        state[at.STEP + i] = wanted if accepted & last & (wanted > step) else step
        state[at.TIME + i] = (state[at.BREAKPOINT + i] if last else t + h) if accepted else t
        state[at.CENTRAL + i] = z if accepted else y
        state[at.DEPOT + i] = depot_new if accepted else depot
        state[at.ARRIVED + i] = 1.0 if accepted & last else 0.0


@njit(inline="always")
def _decay(s: float) -> float:
    """exp(-s) for s ≥ 0 within 3e-14 of itself (4e-18 from s = 40 on), by arithmetic alone, so that it vectorises."""
    x = (s if s < 40.0 else 40.0) * (-1 / 128)
    e = 1 / 3628800 + x * (1 / 39916800)
    e = 1 / 5040 + x * (1 / 40320 + x * (1 / 362880 + x * e))
    e = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * e))
    e = 1.0 + x * (1.0 + x * (1 / 2 + x * (1 / 6 + x * e)))
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return e * e
