"""Doses on their way: the queue of what arrives later in a subject, and the plan of the dose that is given now.

``queue``: times, (rows of :data:`BOLUS` ... :data:`INTERVAL`), states, derivatives, and how many entries are in use.
``plan``: the dose's values (:data:`AMOUNT` ... :data:`STOP`), their derivatives, and kept states with theirs.
"""

from __future__ import annotations

from image_longitudinal.models.nlme.kernels.compiled import compiled

GOOD, NOT_INTEGRATED, NO_STEADY_STATE, NO_RATE = range(4)  # why a subject failed
# columns of the plan; from COUNT on they are of a steady state
AMOUNT, SPEED, LENGTH, LAG_TIME, WHERE, EVERY, COUNT, REST, ADDED, CYCLE, CHANGED, STAGE, FROM, TO, STOP = range(15)
BOLUS, CHANGE, REPEATS, INTERVAL = range(4)  # columns of the queue


@compiled
def stop_infusions(rate, rate_by):  # type: ignore[no-untyped-def]
    """All infusion rates 0."""
    for i in range(rate.size):
        rate[i] = 0.0
        for j in range(rate_by.shape[1]):
            rate_by[i, j] = 0.0


@compiled
def put(queue, by, t, i, bolus, change, ends):  # type: ignore[no-untyped-def]
    """A new entry of the queue for time t and state i; ``ends``: the end of an infusion. Its number."""
    at, what, where, entry_by, used = queue
    k = used[0]
    at[k], where[k] = t, i
    what[k, BOLUS], what[k, CHANGE], what[k, REPEATS], what[k, INTERVAL] = bolus, change, 0.0, 0.0
    sign = (1.0 if change > 0.0 else 0.0) - (1.0 if change < 0.0 else 0.0)
    for q in range(entry_by.shape[2]):
        entry_by[k, BOLUS, q] = by[AMOUNT, q] if sign == 0.0 else 0.0
        entry_by[k, CHANGE, q] = sign * by[SPEED, q]
        entry_by[k, 2, q] = by[LAG_TIME, q] + (by[LENGTH, q] if ends else 0.0)
    used[0] += 1
    return k


@compiled
def put_dose(t, queue, plan):  # type: ignore[no-untyped-def]
    """The dose of ``plan`` into the queue."""
    now, by = plan[0], plan[1]
    i, arrival = int(now[WHERE]), t + now[LAG_TIME]
    if now[SPEED] > 0.0:
        put(queue, by, arrival, i, 0.0, now[SPEED], False)
        put(queue, by, arrival + now[LENGTH], i, 0.0, -now[SPEED], True)
    else:
        put(queue, by, arrival, i, now[AMOUNT], 0.0, False)


@compiled
def infuse(many, i, rate, rate_by, plan):  # type: ignore[no-untyped-def]
    """``many`` infusions of the plan's dose run at once."""
    rate[i] = many * plan[0][SPEED]
    for q in range(rate_by.shape[1]):
        rate_by[i, q] = many * plan[1][SPEED, q]
