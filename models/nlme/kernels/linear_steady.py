"""Steady states of linear compartments: limits of geometric series, at the cost of one dosing interval."""

import math

from image_longitudinal.models.nlme.kernels import calls, doses, records
from image_longitudinal.models.nlme.kernels.compiled import apart, assign, assign2, compiled
from image_longitudinal.models.nlme.kernels.linear_state import (
    AMOUNT,
    add,
    advance,
    amounts,
    clear,
    compartment_of,
    infuse,
    set_amounts,
    spread,
    stop_infusions,
    transfer,
)


@apart
def shift(s, time_by):  # type: ignore[no-untyped-def]
    """Derivatives by the time at which the state is reached: -slope d time."""
    more, modes, depots, passed, modes_by, depots_by = s.more, s.modes, s.depots, s.passed, s.modes_by, s.depots_by
    m = time_by.size
    more[0] = True
    for i in range(modes.size):
        slope = modes[i].rate - modes[i].decay * modes[i].zeta
        for d in range(depots.size):
            slope += depots[d].kt * (depots[d].amount - modes[i].decay * passed[i, d].psi)
        for a in range(m):
            modes_by[i, a].zeta -= slope * time_by[a]
    for d in range(depots.size):
        slope = depots[d].rate - depots[d].ka * depots[d].amount
        for a in range(m):
            depots_by[d, a].amount -= slope * time_by[a]


@apart
def set_infusions(s, plan, count):  # type: ignore[no-untyped-def]
    """``count`` infusions of the planned dose run at once, and no others."""
    stop_infusions(s)
    infuse(s, plan.dose[0].compartment, plan.dose[0].rate, plan.rate_by, count)


@apart
def forever(s):  # type: ignore[no-untyped-def]
    """The limit under the present infusion rates; whether there is one."""
    modes, depots, passed, modes_by, depots_by, y_by = s.modes, s.depots, s.passed, s.modes_by, s.depots_by, s.y_by
    m = y_by.shape[1]
    for d in range(depots.size):
        depot = depots[d]
        if not depot.ka > 0.0:
            return False
        depot.amount = depot.rate / depot.ka
        depot.amount_k = -depot.amount / depot.ka
        for a in range(m):
            depots_by[d, a].amount = depots_by[d, a].rate / depot.ka
    for i in range(modes.size):
        mode = modes[i]
        if not mode.decay > 0.0:
            return False
        mode.zeta = mode.rate / mode.decay
        mode.zeta_l = -mode.zeta / mode.decay
        for a in range(m):
            modes_by[i, a].zeta = modes_by[i, a].rate / mode.decay
        for d in range(depots.size):
            depot, to = depots[d], passed[i, d]
            to.psi = depot.amount / mode.decay
            to.psi_l, to.psi_k = -to.psi / mode.decay, depot.amount_k / mode.decay
            for a in range(m):
                modes_by[i, a].zeta += depot.kt * depots_by[d, a].amount / mode.decay
    return True


@apart
def repeated(h, s):  # type: ignore[no-untyped-def]
    """From the state after one interval h that began empty, that at the end of many; whether there is one."""
    modes, depots, passed, modes_by, depots_by, y_by = s.modes, s.depots, s.passed, s.modes_by, s.depots_by, s.y_by
    m = y_by.shape[1]
    for d in range(depots.size):
        depot = depots[d]
        kept, lost = math.exp(-depot.ka * h), -math.expm1(-depot.ka * h)
        if not lost > 0.0:
            return False
        depot.amount /= lost
        depot.amount_k = (depot.amount_k - h * kept * depot.amount) / lost
        for a in range(m):
            depots_by[d, a].amount /= lost
    for i in range(modes.size):
        mode = modes[i]
        kept, lost = math.exp(-mode.decay * h), -math.expm1(-mode.decay * h)
        if not lost > 0.0:
            return False
        mode.zeta /= lost
        mode.zeta_l = (mode.zeta_l - h * kept * mode.zeta) / lost
        for d in range(depots.size):
            depot, to = depots[d], passed[i, d]
            g, g_l, g_k = transfer(h, depot.ka, mode.decay, math.exp(-depot.ka * h), kept)
            to.psi = (to.psi + g * depot.amount) / lost
            to.psi_l = (to.psi_l + g_l * depot.amount - h * kept * to.psi) / lost
            to.psi_k = (to.psi_k + g_k * depot.amount + g * depot.amount_k) / lost
            for a in range(m):
                modes_by[i, a].zeta += depot.kt * g * depots_by[d, a].amount
        for a in range(m):
            modes_by[i, a].zeta /= lost
    return True


@compiled
def give(s, plan):  # type: ignore[no-untyped-def]
    """The planned bolus."""
    dose = plan.dose[0]
    if dose.rate == 0.0:
        add(s, dose.compartment, AMOUNT, dose.amount, plan.amount_by)


@apart
def lengthened(s, plan):  # type: ignore[no-untyped-def]
    """Derivatives by the duration of an infusion of the planned dose that has just ended."""
    modes, depots, exchange, modes_by, depots_by = s.modes, s.depots, s.exchange, s.modes_by, s.depots_by
    nd, own = depots.size, compartment_of(s, plan.dose[0].compartment)
    for a in range(plan.duration_by.size):
        moved = plan.dose[0].rate * plan.duration_by[a]
        if own < nd:
            depots_by[own, a].amount += moved
        for i in range(modes.size if own >= nd else 0):
            modes_by[i, a].zeta += moved * (exchange[i, own - nd].left if own > nd else 1.0)


@apart
def one_interval(s, plan, overlap, remainder, stop):  # type: ignore[no-untyped-def]
    """From just before a dose to ``stop`` after it (which may be before it)."""
    give(s, plan)
    set_infusions(s, plan, overlap + 1.0 if remainder > 0.0 else overlap)
    end = min(remainder, stop)
    advance(end, s)
    if end == remainder:  # the infusion ends
        set_infusions(s, plan, overlap)
        if remainder > 0.0:
            lengthened(s, plan)
        if stop > end:
            advance(stop - end, s)


@apart
def steady_state(model, t, kind, s, p, queue, plan, initial, initial_by):  # type: ignore[no-untyped-def]
    """The steady state of the planned dose at time t, and what is still to come of its doses; GOOD, or why not.

    As :func:`models.nlme.kernels.doses.next_piece`: the state just before the dose at t + lag is carried back over the
    lag time. ``initial`` (n,), ``initial_by`` (n, m): scratch arrays.
    """
    more, y, y_by, rate, rate_by = s.more, s.y, s.y_by, s.rate, s.rate_by
    dose, n, m = plan.dose[0], y.size, y_by.shape[1]
    interval, lag = dose.interval, dose.lag
    if kind == records.STEADY_STATE_ADDED:
        amounts(s, m)
        assign(plan.present, y)
        assign2(plan.present_by, y_by)
        assign(plan.infusing, rate)
        assign2(plan.infusing_by, rate_by)
        calls.call_initial(model, (t, p, initial, initial_by))
    else:
        queue.length[0] = 0
    clear(s)
    overlap, remainder = 0.0, 0.0
    if interval > 0.0:
        overlap = math.floor(dose.duration / interval)
        remainder = dose.duration - overlap * interval
        more[0] = m > 0
        one_interval(s, plan, overlap, remainder, interval)
        if not repeated(interval, s):
            return records.NO_STEADY_STATE
        if lag > 0.0:
            one_interval(s, plan, overlap, remainder, interval - lag)
            shift(s, plan.lag_by)
        else:
            set_infusions(s, plan, overlap)
    else:
        set_infusions(s, plan, 1.0)
        if not forever(s):
            return records.NO_STEADY_STATE
        stop_infusions(s)  # NONMEM: a constant infusion ends at the event
    if kind == records.STEADY_STATE_ADDED:
        amounts(s, m)
        for place in range(n):
            y[place] += plan.present[place] - initial[place]
            rate[place] += plan.infusing[place]
            for a in range(m):
                y_by[place, a] += plan.present_by[place, a] - initial_by[place, a]
                rate_by[place, a] += plan.infusing_by[place, a]
        set_amounts(s)
        spread(s)
    if interval > 0.0 and remainder > 0.0 and lag > interval - remainder:
        doses.push(queue, plan, t + lag - (interval - remainder), 0.0, -dose.rate, True)
    if overlap > 0.0:
        k = doses.push(queue, plan, t + lag + remainder, 0.0, -dose.rate, True)
        queue.repeats[k], queue.interval[k] = overlap - 1.0, interval
    if interval > 0.0:
        doses.push_dose(queue, plan, t)
    return records.GOOD
