"""Doses: the queue of what is still to come (after lag times, at ends of infusions), and steady states."""

import math

from image_longitudinal.models.nlme.kernels.calls import call_initial, call_rhs
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2, compiled, zero, zero2
from image_longitudinal.models.nlme.kernels.records import GOOD, NO_STEADY_STATE, STEADY_STATE, STEADY_STATE_ADDED

# What is integrated next: nothing, a constant infusion, a whole interval up to the end of its infusion, the rest of it,
# the last interval (which ends at the lag time before a dose) up to the end of its infusion, the rest of that.
NONE, CONSTANT, WHOLE, INFUSING, LAST, LAST_INFUSING = range(6)
CYCLES = 10_000  # dosing intervals after which the search ends without a steady state
AT_LEAST, DOUBLINGS = 20, 60  # pieces of a constant infusion, 2, 4, 8, ... long; after 20 of them 1e6 have passed


@compiled
def stop_infusions(state):  # type: ignore[no-untyped-def]
    """All infusion rates 0."""
    zero(state.rate)
    zero2(state.rate_by)


@compiled
def set_infusions(count, state, plan):  # type: ignore[no-untyped-def]
    """``count`` infusions of the planned dose run at once, and no others into its compartment."""
    i, rate = plan.dose[0].compartment, plan.dose[0].rate
    state.rate[i] = count * rate
    for q in range(state.rate_by.shape[1]):
        state.rate_by[i, q] = count * plan.rate_by[q]


@compiled
def push(queue, plan, time, bolus, rate_change, ends):  # type: ignore[no-untyped-def]
    """Add an entry of the planned dose; ``ends``: it is the end of an infusion. Returns its position."""
    k = queue.length[0]
    queue.time[k], queue.compartment[k] = time, plan.dose[0].compartment
    queue.bolus[k], queue.rate_change[k], queue.repeats[k], queue.interval[k] = bolus, rate_change, 0.0, 0.0
    sign = (1.0 if rate_change > 0.0 else 0.0) - (1.0 if rate_change < 0.0 else 0.0)
    for q in range(queue.time_by.shape[1]):
        queue.bolus_by[k, q] = plan.amount_by[q] if sign == 0.0 else 0.0
        queue.rate_change_by[k, q] = sign * plan.rate_by[q]
        queue.time_by[k, q] = plan.lag_by[q] + (plan.duration_by[q] if ends else 0.0)
    queue.length[0] += 1
    return k


@compiled
def push_dose(queue, plan, time):  # type: ignore[no-untyped-def]
    """Add the planned dose, given at ``time``: a bolus, or begin and end of an infusion, after the lag time."""
    dose = plan.dose[0]
    arrival = time + dose.lag
    if dose.rate > 0.0:
        push(queue, plan, arrival, 0.0, dose.rate, False)
        push(queue, plan, arrival + dose.duration, 0.0, -dose.rate, True)
    else:
        push(queue, plan, arrival, dose.amount, 0.0, False)


@compiled
def repeat_or_remove(queue, k):  # type: ignore[no-untyped-def]
    """Move entry k of the queue to its next time, or put the last entry in its place if it does not repeat."""
    if queue.repeats[k] > 0.0:
        queue.repeats[k] -= 1.0
        queue.time[k] += queue.interval[k]
        return
    queue.length[0] -= 1
    last = queue.length[0]
    queue.time[k], queue.compartment[k] = queue.time[last], queue.compartment[last]
    queue.bolus[k], queue.rate_change[k] = queue.bolus[last], queue.rate_change[last]
    queue.repeats[k], queue.interval[k] = queue.repeats[last], queue.interval[last]
    assign(queue.bolus_by[k], queue.bolus_by[last])
    assign(queue.rate_change_by[k], queue.rate_change_by[last])
    assign(queue.time_by[k], queue.time_by[last])


@compiled
def apply_entry(model, queue, k, t, state, p, slope_after, slope_before):  # type: ignore[no-untyped-def]
    """Let entry k change states and infusion rates at its time t, and remove it unless it repeats.

    ``slope_after``, ``slope_before`` (n,): scratch arrays.
    """
    y, y_by, size, rate, rate_by = state
    i, m = queue.compartment[k], y_by.shape[1]
    bolus, rate_change = queue.bolus[k], queue.rate_change[k]
    y[i] += bolus
    size[i] = max(size[i], abs(y[i]))
    moves = False
    for q in range(m):
        y_by[i, q] += queue.bolus_by[k, q]
        rate_by[i, q] += queue.rate_change_by[k, q]
        moves = moves or queue.time_by[k, q] != 0.0
    if moves:
        call_rhs(model, (t, y, p, slope_after))
        y[i] -= bolus
        call_rhs(model, (t, y, p, slope_before))
        y[i] += bolus
        slope_after[i] += rate_change
        for j in range(y.size):
            for q in range(m):
                y_by[j, q] += (slope_before[j] - slope_after[j]) * queue.time_by[k, q]
    rate[i] += rate_change
    if abs(rate[i]) < 1e-12 * abs(rate_change):
        rate[i] = 0.0  # rounding after the last infusion has ended
    repeat_or_remove(queue, k)


@compiled
def begin_steady_state(model, t, kind, state, p, queue, plan):  # type: ignore[no-untyped-def]
    """Keep the present states and start the planned dose's intervals from the model's initial ones."""
    dose, interval = plan.dose[0], plan.dose[0].interval
    dose.added = kind == STEADY_STATE_ADDED
    assign(plan.present, state.y)
    assign(plan.infusing, state.rate)
    assign2(plan.present_by, state.y_by)
    assign2(plan.infusing_by, state.rate_by)
    if kind == STEADY_STATE:
        queue.length[0] = 0
    call_initial(model, (t, p, state.y, state.y_by))
    assign(plan.initial, state.y)
    assign2(plan.initial_by, state.y_by)
    stop_infusions(state)
    dose.cycle, dose.change = 0, math.inf
    dose.overlap = math.floor(dose.duration / interval) if interval > 0.0 else 0.0
    dose.remainder = dose.duration - dose.overlap * interval
    dose.end = 0.0
    dose.stage = WHOLE if interval > 0.0 else CONSTANT
    if interval <= 0.0:
        set_infusions(1.0, state, plan)


@compiled
def is_steady(state, plan, tolerance):  # type: ignore[no-untyped-def]
    """Whether further intervals would change the states by less than the tolerance."""
    y, y_by, dose = state.y, state.y_by, plan.dose[0]
    change = 0.0
    for j in range(y.size):
        change = max(change, abs(y[j] - plan.previous[j]) / max(state.size[j], 1e-300))
    ratio = change / dose.change if dose.change < math.inf else 1.0
    dose.change = change
    # what all further intervals would add, from the ratio of the last two changes
    found = change <= 1e-3 * tolerance or (ratio < 1.0 and change * ratio <= tolerance * (1.0 - ratio))
    for j in range(y.size):
        for q in range(y_by.shape[1]):
            found = found and abs(y_by[j, q] - plan.previous_by[j, q]) <= 1e-7 * abs(y_by[j, q]) + 1e-12
    return found


@compiled
def next_piece(model, t, state, p, queue, plan, tolerance):  # type: ignore[no-untyped-def]
    """Plan the next piece to integrate on the way to the steady state of a dose at t; GOOD, or why it failed.

    Intervals begin just before a dose and are repeated until the states at their end no longer change. Then, as in
    NONMEM, the state just before the dose at t + lag is carried back over the lag time; beyond the last interval no
    earlier dose counts, and infusions stay as they are at its beginning. Times are relative to the dose.
    """
    y, y_by, size = state.y, state.y_by, state.size
    dose = plan.dose[0]
    n, m, i = y.size, y_by.shape[1], dose.compartment
    interval, remainder, lag = dose.interval, dose.remainder, dose.lag
    while True:
        dose.begin = dose.end
        if dose.stage == CONSTANT:
            steady = dose.cycle >= AT_LEAST
            for j in range(n):
                steady = steady and abs(y[j] - plan.previous[j]) <= tolerance * max(size[j], 1e-300)
            if steady:
                break
            if dose.cycle == DOUBLINGS:
                return NO_STEADY_STATE
            assign(plan.previous, y)
            dose.cycle += 1
            dose.end = dose.begin + 2.0**dose.cycle
            return GOOD
        if dose.stage == WHOLE:
            if dose.cycle > 0 and is_steady(state, plan, tolerance):
                dose.stage = LAST
                if lag <= 0.0:
                    set_infusions(dose.overlap, state, plan)
                    break
            elif dose.cycle == CYCLES:
                return NO_STEADY_STATE
            assign(plan.previous, y)
            assign2(plan.previous_by, y_by)
            dose.cycle += 1
            if dose.rate == 0.0:
                y[i] += dose.amount
                size[i] = max(size[i], abs(y[i]))
                for q in range(m):
                    y_by[i, q] += plan.amount_by[q]
            dose.stop = interval if dose.stage == WHOLE else interval - lag
            set_infusions(dose.overlap + 1.0 if remainder > 0.0 else dose.overlap, state, plan)
            dose.begin = 0.0
            dose.end = min(remainder, dose.stop)  # backwards where the lag time exceeds the interval
            dose.stage = INFUSING if dose.stage == WHOLE else LAST_INFUSING
            if dose.end != 0.0:
                return GOOD
            continue
        if dose.stage == INFUSING or dose.stage == LAST_INFUSING:
            if dose.end == remainder:  # the infusion ends
                set_infusions(dose.overlap, state, plan)
                if remainder > 0.0:
                    for q in range(m):
                        y_by[i, q] += dose.rate * plan.duration_by[q]
            dose.stage = WHOLE if dose.stage == INFUSING else LAST
            if dose.stop > dose.end:
                dose.end = dose.stop
                return GOOD
            continue
        break
    _finish(model, t, state, p, queue, plan)
    return GOOD


@compiled
def _finish(model, t, state, p, queue, plan):  # type: ignore[no-untyped-def]
    """The steady state is reached: add the states before it (SS 2), and queue what is still to come of its doses."""
    y, y_by, _, rate, rate_by = state
    dose = plan.dose[0]
    n, m, i = y.size, y_by.shape[1], dose.compartment
    interval, remainder, lag = dose.interval, dose.remainder, dose.lag
    if interval <= 0.0:
        stop_infusions(state)  # NONMEM: a constant infusion ends at the event
    elif lag > 0.0 and m > 0:
        slope = plan.previous
        call_rhs(model, (t, y, p, slope))
        slope[i] += rate[i]
        for j in range(n):
            for q in range(m):
                y_by[j, q] -= slope[j] * plan.lag_by[q]
    if dose.added:
        for j in range(n):
            y[j] += plan.present[j] - plan.initial[j]
            rate[j] += plan.infusing[j]
            for q in range(m):
                y_by[j, q] += plan.present_by[j, q] - plan.initial_by[j, q]
                rate_by[j, q] += plan.infusing_by[j, q]
    if interval > 0.0 and remainder > 0.0 and lag > interval - remainder:
        push(queue, plan, t + lag - (interval - remainder), 0.0, -dose.rate, True)
    if dose.overlap > 0.0:
        k = push(queue, plan, t + lag + remainder, 0.0, -dose.rate, True)
        queue.repeats[k], queue.interval[k] = dose.overlap - 1.0, interval
    if interval > 0.0:
        push_dose(queue, plan, t)
    dose.stage = NONE
