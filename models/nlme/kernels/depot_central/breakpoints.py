"""Breakpoints of the integration of a subject, and what happens there; used with and without sensitivities.

A state is one float64 array with each quantity of ``LANES`` subjects side by side: quantity CENTRAL of lane i is
``state[CENTRAL + i]``. A breakpoint is a row (time, quantity, amount): the amount is added to the quantity, or, if
the quantity is OBSERVED, the central amount is observed. An infusion has two: its rate is added, later subtracted.
"""

from typing import Any

import numpy as np
from numba import njit

from image_longitudinal.models.nlme.kernels.cached import cached_kernel

LANES = 8  # subjects integrated side by side: one AVX-512 register, two of AVX
(
    TIME, BREAKPOINT, CENTRAL, DEPOT, STEP, KA, V, KM, DEPOT_RATE, CENTRAL_RATE, BOUND, ARRIVED,
) = range(0, 12 * LANES, LANES)  # fmt: skip
NEXT, LAST, OUT = range(0, 3 * LANES, LANES)  # of a second array: next and last breakpoint, next observation
OBSERVED = -1
FIRST_STEP = 0.3  # after each dose, in units of the fastest time scale


@cached_kernel
def new_lanes() -> tuple[np.ndarray, np.ndarray]:
    """Idle lanes: an empty system that can be integrated without end."""
    state, position = np.zeros(12 * LANES), np.zeros(3 * LANES, dtype=np.int64)
    for field in (BREAKPOINT, STEP, KA, V, KM, BOUND):
        for lane in range(LANES):
            state[field + lane] = 1.0
    return state, position


@cached_kernel
def breakpoints_of(data: Any, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Breakpoints (S, 3) of the subjects first..last of ``data``, their offsets (n + 1,) and largest doses (n,)."""
    row_start, times, before, event_start = data.row_start, data.times, data.before, data.event_start
    when, amount, rate, compartment = data.when, data.amount, data.rate, data.compartment
    most = row_start[last] - row_start[first] + 2 * (event_start[last] - event_start[first])
    breakpoints, largest = np.empty((most, 3)), np.zeros(last - first)
    start = np.zeros(last - first + 1, dtype=np.int64)
    k = 0
    for subject in range(first, last):
        event, begin = event_start[subject], k
        for row in range(row_start[subject], row_start[subject + 1]):
            while event < event_start[subject] + before[row]:
                infusion, into_depot = rate[event] > 0.0, compartment[event] == 0
                field = (DEPOT_RATE if infusion else DEPOT) if into_depot else (CENTRAL_RATE if infusion else CENTRAL)
                largest[subject - first] = max(largest[subject - first], amount[event])
                k = _insert(breakpoints, begin, k, when[event], field, rate[event] if infusion else amount[event])
                if infusion:
                    k = _insert(breakpoints, begin, k, when[event] + amount[event] / rate[event], field, -rate[event])
                event += 1
            k = _insert(breakpoints, begin, k, times[row], OBSERVED, 0.0)
        while breakpoints[k - 1, 1] != OBSERVED and k > begin:  # (after the last observation)
            k -= 1
        start[subject - first + 1] = k
    return breakpoints[:k], start, largest


@cached_kernel
def _insert(breakpoints: np.ndarray, begin: int, k: int, time: float, field: int, amount: float) -> int:
    """Insert a breakpoint into the rows begin..k, sorted by time and behind equal times; the new k."""
    place = k
    while place > begin and breakpoints[place - 1, 0] > time:
        for column in range(3):
            breakpoints[place, column] = breakpoints[place - 1, column]
        place -= 1
    breakpoints[place, 0], breakpoints[place, 1], breakpoints[place, 2] = time, field, amount
    return k + 1


@njit(inline="always")
def load_subject(
    state: np.ndarray, position: np.ndarray, lane: int, p: np.ndarray, breakpoints: np.ndarray, start_of: np.ndarray,
    largest: np.ndarray, subject: int, out: int, tolerance: float,
) -> None:  # fmt: skip
    """Load a subject with parameters p (3,) into a lane; ``out``: position of its first observation."""
    first, last = start_of[subject], start_of[subject + 1]
    position[NEXT + lane], position[LAST + lane], position[OUT + lane] = first, last, out
    state[TIME + lane] = breakpoints[first, 0] if last > first else 0.0
    state[KA + lane], state[V + lane], state[KM + lane] = p[0], p[1], p[2]
    state[CENTRAL + lane] = state[DEPOT + lane] = state[DEPOT_RATE + lane] = state[CENTRAL_RATE + lane] = 0.0
    state[BOUND + lane] = tolerance * (largest[subject] if largest[subject] > 0.0 else 1.0)
    _first_step(state, lane)


@njit(inline="always")
def _first_step(state: np.ndarray, lane: int) -> None:
    state[STEP + lane] = FIRST_STEP / (1.0 + state[KA + lane] + state[V + lane] / state[KM + lane])


@njit(inline="always")
def apply_events(
    state: np.ndarray, position: np.ndarray, lane: int, breakpoints: np.ndarray,
    out: np.ndarray, gradient: np.ndarray, sens: np.ndarray,
) -> bool:  # fmt: skip
    """Apply the breakpoints at the lane's time and set its next one; False after the last.

    Observations write the central amount to ``out`` and ``sens`` to the rows of ``gradient``, (N, m) for any m.
    """
    k, more = position[NEXT + lane], False
    while k < position[LAST + lane]:
        if breakpoints[k, 0] > state[TIME + lane]:
            state[BREAKPOINT + lane], more = breakpoints[k, 0], True
            break
        field = int(breakpoints[k, 1])
        if field == OBSERVED:
            observation = position[OUT + lane]
            out[observation] = state[CENTRAL + lane]
            for i in range(gradient.shape[1]):
                gradient[observation, i] = sens[i]
            position[OUT + lane] += 1
        else:
            state[field + lane] += breakpoints[k, 2]
            _first_step(state, lane)
        k += 1
    position[NEXT + lane] = k
    return more
