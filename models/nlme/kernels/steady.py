"""The way to a steady state: dosing intervals run through until the states at their end no longer change."""

from __future__ import annotations

import math

from image_longitudinal.models.nlme.kernels.calls import call_rhs
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2, compiled
from image_longitudinal.models.nlme.kernels.queue import (
    ADDED,
    AMOUNT,
    CHANGED,
    COUNT,
    CYCLE,
    EVERY,
    FROM,
    GOOD,
    INTERVAL,
    LAG_TIME,
    LENGTH,
    NO_STEADY_STATE,
    REPEATS,
    REST,
    SPEED,
    STAGE,
    STOP,
    TO,
    WHERE,
    infuse,
    put,
    put_dose,
    stop_infusions,
)

NONE, FOREVER, NEXT, FIRST_PART, LAST, LAST_FIRST_PART = range(6)
CYCLES = 10_000  # dosing intervals after which a steady state is given up
AT_LEAST, DOUBLINGS = 20, 60  # of the time of a constant infusion, from 1 on: 1e6 is late enough to call it steady


@compiled
def settled(y, sens, size, plan, tolerance):  # type: ignore[no-untyped-def]
    """Whether further intervals would change the states by less than the tolerance."""
    now, _, old, old_by = plan
    change = 0.0
    for j in range(y.size):
        change = max(change, abs(y[j] - old[3, j]) / max(size[j], 1e-300))
    shrinks = change / now[CHANGED] if now[CHANGED] < math.inf else 1.0
    now[CHANGED] = change
    # what all further intervals would add, from the ratio of the last two changes
    found = change <= 1e-3 * tolerance or (shrinks < 1.0 and change * shrinks <= tolerance * (1.0 - shrinks))
    for j in range(y.size):
        for q in range(sens.shape[1]):
            found = found and abs(sens[j, q] - old_by[3, j, q]) <= 1e-7 * abs(sens[j, q]) + 1e-12
    return found


@compiled
def proceed(model, t, y, sens, p, rate, rate_by, size, queue, plan, tolerance):  # type: ignore[no-untyped-def]
    """What is next on the way to a steady state, when ``TO`` has been reached; why it failed, or GOOD.

    Interval by interval from just before a dose, until the states at its end no longer change. Then, as in NONMEM,
    the state just before the dose at t + lag is carried back over the lag time; beyond the last interval no earlier
    dose counts, and infusions stay as they are at its beginning. Times are relative to the dose.
    """
    now, by, old, old_by = plan
    n, m, i = y.size, sens.shape[1], int(now[WHERE])
    interval, rest, lag, r = now[EVERY], now[REST], now[LAG_TIME], now[SPEED]
    while True:
        now[FROM] = now[TO]
        if now[STAGE] == FOREVER:
            steady = now[CYCLE] >= AT_LEAST
            for j in range(n):
                steady = steady and abs(y[j] - old[3, j]) <= tolerance * max(size[j], 1e-300)
            if steady:
                break
            if now[CYCLE] == DOUBLINGS:
                return NO_STEADY_STATE
            assign(old[3], y)
            now[CYCLE] += 1.0
            now[TO] = now[FROM] + 2.0 ** now[CYCLE]
            return GOOD
        if now[STAGE] == NEXT:  # at the end of an interval
            if now[CYCLE] > 0.0 and settled(y, sens, size, plan, tolerance):
                now[STAGE] = LAST
                if lag <= 0.0:
                    infuse(now[COUNT], i, rate, rate_by, plan)
                    break
            elif now[CYCLE] == CYCLES:
                return NO_STEADY_STATE
            assign(old[3], y)
            assign2(old_by[3], sens)
            now[CYCLE] += 1.0
            if r == 0.0:
                y[i] += now[AMOUNT]
                size[i] = max(size[i], abs(y[i]))
                for q in range(m):
                    sens[i, q] += by[AMOUNT, q]
            now[STOP] = interval if now[STAGE] == NEXT else interval - lag
            infuse(now[COUNT] + 1.0 if rest > 0.0 else now[COUNT], i, rate, rate_by, plan)
            now[FROM] = 0.0
            now[TO] = min(rest, now[STOP])  # backwards where the lag time exceeds the interval
            now[STAGE] = FIRST_PART if now[STAGE] == NEXT else LAST_FIRST_PART
            if now[TO] != 0.0:
                return GOOD
            continue
        if now[STAGE] == FIRST_PART or now[STAGE] == LAST_FIRST_PART:
            if now[TO] == rest:  # the infusion ends
                infuse(now[COUNT], i, rate, rate_by, plan)
                if rest > 0.0:
                    for q in range(m):
                        sens[i, q] += r * by[LENGTH, q]
            now[STAGE] = NEXT if now[STAGE] == FIRST_PART else LAST
            if now[STOP] > now[TO]:
                now[TO] = now[STOP]
                return GOOD
            continue
        break
    running = interval > 0.0 and rest > 0.0 and lag > interval - rest
    if interval <= 0.0:
        stop_infusions(rate, rate_by)  # NONMEM: a constant infusion ends at the event
    elif lag > 0.0 and m > 0:
        call_rhs(model, (t, y, p, old[3]))
        old[3, i] += rate[i]
        for j in range(n):
            for q in range(m):
                sens[j, q] -= old[3, j] * by[LAG_TIME, q]
    if now[ADDED] > 0.0:
        for j in range(n):
            y[j] += old[0, j] - old[2, j]
            rate[j] += old[1, j]
            for q in range(m):
                sens[j, q] += old_by[0, j, q] - old_by[2, j, q]
                rate_by[j, q] += old_by[1, j, q]
    if running:
        put(queue, by, t + lag - (interval - rest), i, 0.0, -r, True)
    if now[COUNT] > 0.0:
        k = put(queue, by, t + lag + rest, i, 0.0, -r, True)
        queue[1][k, REPEATS], queue[1][k, INTERVAL] = now[COUNT] - 1.0, interval
    if interval > 0.0:
        put_dose(t, queue, plan)
    now[STAGE] = NONE
    return GOOD
