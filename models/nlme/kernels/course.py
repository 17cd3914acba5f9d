"""Through a subject's events: doses, infusions, resets, steady states and changes of covariates, for generated models.

Events come one by one at their nominal times. A dose is put in the queue of what arrives later (after the lag time; the
end of an infusion), so that its lag time, bioavailability, rate and duration may depend on the parameters and on the
covariates of that time. Sensitivities follow through all of it: where the time τ of a jump depends on a parameter, the
derivative of the state jumps by (x'(τ-) - x'(τ+)) dτ/dp.
"""

from __future__ import annotations

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import (
    DOSING,
    N_COVARIATES,
    N_PARAMETERS,
    N_STATES,
    call_advance,
    call_dosing,
    call_initial,
    call_output,
    call_rhs,
)
from image_longitudinal.models.nlme.kernels.compiled import assign, assign2, compiled
from image_longitudinal.models.nlme.kernels.esdirk import workspace
from image_longitudinal.models.nlme.kernels.queue import (
    ADDED,
    AMOUNT,
    BOLUS,
    CHANGE,
    CHANGED,
    COUNT,
    CYCLE,
    EVERY,
    FROM,
    GOOD,
    INTERVAL,
    LAG_TIME,
    LENGTH,
    NO_RATE,
    NOT_INTEGRATED,
    REPEATS,
    REST,
    SPEED,
    STAGE,
    TO,
    WHERE,
    put_dose,
    stop_infusions,
)
from image_longitudinal.models.nlme.kernels.steady import FOREVER, NEXT, NONE, proceed

DOSE, STEADY, STEADY_ADDED, RESET, COVARIATES = range(
    5
)  # image_longitudinal.models.nlme.data.population_data has the same
LAG, BIOAVAILABILITY, RATE, DURATION = range(4)  # structural.MODIFIERS, in that order


@compiled
def arrive(model, k, t, y, sens, p, rate, rate_by, size, queue, slopes):  # type: ignore[no-untyped-def]
    """What entry k of the queue does to the states and infusion rates at its time t; then it leaves the queue."""
    at, what, where, by, used = queue
    i, m = where[k], sens.shape[1]
    y[i] += what[k, BOLUS]
    size[i] = max(size[i], abs(y[i]))
    moves = False
    for q in range(m):
        sens[i, q] += by[k, BOLUS, q]
        rate_by[i, q] += by[k, CHANGE, q]
        moves = moves or by[k, 2, q] != 0.0
    if moves:
        call_rhs(model, (t, y, p, slopes[0]))
        y[i] -= what[k, BOLUS]
        call_rhs(model, (t, y, p, slopes[1]))
        y[i] += what[k, BOLUS]
        slopes[0, i] += what[k, CHANGE]
        for j in range(y.size):
            for q in range(m):
                sens[j, q] += (slopes[1, j] - slopes[0, j]) * by[k, 2, q]
    rate[i] += what[k, CHANGE]
    if abs(rate[i]) < 1e-12 * abs(what[k, CHANGE]):
        rate[i] = 0.0  # what rounding leaves after the last end
    if what[k, REPEATS] > 0.0:
        what[k, REPEATS] -= 1.0
        at[k] += what[k, INTERVAL]
        return
    used[0] -= 1
    last = used[0]
    at[k], where[k] = at[last], where[last]
    assign(what[k], what[last])
    assign2(by[k], by[last])


@compiled
def give(model, t, kind, i, amount, r, interval, y, sens, p, rate, rate_by, size, queue, plan, tolerance):  # type: ignore[no-untyped-def]
    """A dose event at its nominal time t: into the queue, or (steady states) into ``plan``, to be gone through."""
    now, by, old, old_by = plan
    n, m = y.size, sens.shape[1]
    now[LAG_TIME], now[LENGTH] = 0.0, 0.0
    for q in range(m):
        by[AMOUNT, q] = by[SPEED, q] = by[LENGTH, q] = by[LAG_TIME, q] = 0.0
    if model[DOSING] != 0:
        own, own_by = np.empty(4 * n), np.empty((4 * n, m))
        call_dosing(model, (t, p, own, own_by))
        at = 4 * i
        now[LAG_TIME] = own[at + LAG]
        if not (own[at + LAG] >= 0.0 and own[at + BIOAVAILABILITY] >= 0.0):
            return NO_RATE
        for q in range(m):
            by[LAG_TIME, q] = own_by[at + LAG, q]
            by[AMOUNT, q] = amount * own_by[at + BIOAVAILABILITY, q]
        amount *= own[at + BIOAVAILABILITY]
        if r == -1.0:
            r = own[at + RATE]
            if not r > 0.0:
                return NO_RATE
            for q in range(m):
                by[SPEED, q] = own_by[at + RATE, q]
        elif r == -2.0:
            now[LENGTH] = own[at + DURATION]
            if not now[LENGTH] > 0.0:
                return NO_RATE
            r = amount / now[LENGTH]
            for q in range(m):
                by[SPEED, q] = (by[AMOUNT, q] - r * own_by[at + DURATION, q]) / now[LENGTH]
    elif r < 0.0:
        return NO_RATE
    if r > 0.0:
        now[LENGTH] = amount / r
        for q in range(m):
            by[LENGTH, q] = (by[AMOUNT, q] - now[LENGTH] * by[SPEED, q]) / r
    now[AMOUNT], now[SPEED], now[WHERE], now[EVERY] = amount, r, i, interval
    if kind == DOSE:
        put_dose(t, queue, plan)
        return GOOD
    now[ADDED] = 1.0 if kind == STEADY_ADDED else 0.0
    assign(old[0], y)
    assign(old[1], rate)
    assign2(old_by[0], sens)
    assign2(old_by[1], rate_by)
    if kind == STEADY:
        queue[4][0] = 0
    call_initial(model, (t, p, y, sens))
    assign(old[2], y)
    assign2(old_by[2], sens)
    stop_infusions(rate, rate_by)
    now[CYCLE], now[CHANGED] = 0.0, math.inf
    # infusions longer than the interval overlap: ``COUNT`` of them always, one more for the time ``REST``
    now[COUNT] = math.floor(now[LENGTH] / interval) if interval > 0.0 else 0.0
    now[REST] = now[LENGTH] - now[COUNT] * interval
    now[TO] = 0.0
    now[STAGE] = NEXT if interval > 0.0 else FOREVER
    if interval <= 0.0:
        rate[i] = r
        for q in range(m):
            rate_by[i, q] = by[SPEED, q]
    return proceed(model, t, y, sens, p, rate, rate_by, size, queue, plan, tolerance)


@cached_kernel
def solve(model, parameters, data, start, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
    """Predictions, and their derivatives by the individual parameters if ``gradient`` is not empty.

    Args:
        model: of :mod:`models.nlme.kernels.calls`.
        parameters: (n, m) float64.
        data: image_longitudinal.models.nlme.data.population_data.Arrays.
        start: position in ``data`` of the first subject.
        shared: whether all n subjects have the events and times of that one.
        tolerance: per step, relative to the largest size each state has had.
        out: (N,) float64, receives the predictions of all subjects one after the other.
        gradient: (N, m), or (N, 0) if not wanted.

    Returns:
        The first failed row and the reason, or (-1, GOOD).
    """
    n, m, n_parameters, c = model[N_STATES], gradient.shape[1], model[N_PARAMETERS], model[N_COVARIATES]
    row_start, times, before, endpoint = data.row_start, data.times, data.before, data.endpoint
    event_start, when, kind, compartment = data.event_start, data.when, data.kind, data.compartment
    amount, infused, interval, covariates = data.amount, data.rate, data.interval, data.covariates
    most = 0
    for i in range(start, start + 1 if shared else start + parameters.shape[0]):
        most = max(most, event_start[i + 1] - event_start[i])
    room = 4 * most + 4
    queue = (
        np.zeros(room), np.zeros((room, 4)), np.zeros(room, dtype=np.int64), np.zeros((room, 3, m)),
        np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    plan = (np.zeros(15), np.zeros((4, m)), np.zeros((4, n)), np.zeros((4, n, m)))
    now = plan[0]
    w = workspace(n, m)
    y, sens, size, rate, rate_by = np.zeros(n), np.zeros((n, m)), np.zeros(n), np.zeros(n), np.zeros((n, m))
    by_parameter, by_state = np.zeros(m), np.zeros(n)
    p = np.zeros(n_parameters + 2 * c + 1)
    for row in range(parameters.shape[0]):
        subject = start if shared else start + row
        event, r0, r1 = event_start[subject], row_start[subject], row_start[subject + 1]
        if r0 == r1:
            continue
        first, shift = event, row * (r1 - r0) - r0 if shared else -row_start[start]
        assign(p[:n_parameters], parameters[row])
        t = times[r0]
        if event < event_start[subject + 1]:
            t = min(t, when[event])
            if c > 0:  # the first event sets the covariates
                assign(p[n_parameters : n_parameters + 2 * c], covariates[event])
                p[n_parameters + 2 * c] = when[event]
        call_initial(model, (t, p, y, sens))
        for i in range(n):
            size[i] = abs(y[i])
        stop_infusions(rate, rate_by)
        queue[4][0] = 0
        now[STAGE] = NONE
        for i in range(w[0].size):
            w[0][i] = 0.0
        step = 0.0
        for j in range(r0, r1):
            there = False
            while not there:
                begun, end, busy = t, times[j], now[STAGE] != NONE
                next_k, arrival, nominal = -1, math.inf, math.inf
                if busy:
                    begun, end = t + now[FROM], t + now[TO]
                else:
                    for k in range(queue[4][0]):
                        if queue[0][k] < arrival:
                            next_k, arrival = k, queue[0][k]
                    if event < first + before[j]:
                        nominal = when[event]
                    there = min(arrival, nominal) > end
                    end = min(end, arrival, nominal)
                if n > 0 and end != begun:
                    step = call_advance(model, (begun, end, y, sens, p, rate, rate_by, size, step, tolerance, w))
                    if step < 0.0:
                        return row, NOT_INTEGRATED
                if busy:
                    step = 0.0
                    reason = proceed(model, t, y, sens, p, rate, rate_by, size, queue, plan, tolerance)
                    if reason != GOOD:
                        return row, reason
                    continue
                t = max(t, end)
                if there:
                    break
                step = 0.0
                if arrival <= nominal:
                    arrive(model, next_k, t, y, sens, p, rate, rate_by, size, queue, plan[2])
                    continue
                if kind[event] == COVARIATES:
                    assign(p[n_parameters : n_parameters + 2 * c], covariates[event])
                    p[n_parameters + 2 * c] = when[event]
                elif kind[event] == RESET:
                    queue[4][0] = 0
                    stop_infusions(rate, rate_by)
                    call_initial(model, (t, p, y, sens))
                elif n > 0:
                    reason = give(
                        model, t, kind[event], compartment[event], amount[event], infused[event],
                        interval[event], y, sens, p, rate, rate_by, size, queue, plan, tolerance,
                    )  # fmt: skip
                    if reason != GOOD:
                        return row, reason
                event += 1
            o = j + shift
            out[o] = call_output(model, (endpoint[j], times[j], y, p, by_parameter, by_state))
            if not math.isfinite(out[o]):
                return row, NOT_INTEGRATED
            if m > 0:
                for q in range(m):
                    total = by_parameter[q]
                    for i in range(n):
                        total += by_state[i] * sens[i, q]
                    gradient[o, q] = total
    return -1, GOOD
