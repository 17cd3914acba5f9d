"""Event-driven integration of generated models: doses, infusions, resets, steady states, changes of covariates.

Events come one by one at their nominal times. A dose goes into the event queue (its lag time, the end of an infusion),
so that its lag time, bioavailability, rate and duration may depend on the parameters and on the covariates of that
time. Sensitivities pass through all of it: where the time τ of a jump depends on a parameter, the derivative of the
state jumps by (x'(τ-) - x'(τ+)) dτ/dp.
"""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels import calls, doses, records
from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import assign, compiled, zero
from image_longitudinal.models.nlme.model.structural import MODIFIERS

LAG, BIOAVAILABILITY, RATE, DURATION = (
    MODIFIERS.index(name) for name in ("lag", "bioavailability", "rate", "duration")
)
MODELLED_RATE, MODELLED_DURATION = -1.0, -2.0  # NM-TRAN's RATE


@compiled
def plan_dose(model, t, i, amount, rate, interval, p, plan):  # type: ignore[no-untyped-def]
    """A dose into compartment i as the parameters modify it, into ``plan``; GOOD, or IMPOSSIBLE_DOSE."""
    dose, m = plan.dose[0], plan.lag_by.size
    dose.lag, dose.duration = 0.0, 0.0
    for q in range(m):
        plan.amount_by[q] = plan.rate_by[q] = plan.duration_by[q] = plan.lag_by[q] = 0.0
    if model[calls.DOSING] != 0:
        n = model[calls.N_STATES]
        values, values_by = np.empty(4 * n), np.empty((4 * n, m))
        calls.call_dosing(model, (t, p, values, values_by))
        lag, bioavailability = values[4 * i + LAG], values[4 * i + BIOAVAILABILITY]
        dose.lag = lag
        if not (lag >= 0.0 and bioavailability >= 0.0):
            return records.IMPOSSIBLE_DOSE
        for q in range(m):
            plan.lag_by[q] = values_by[4 * i + LAG, q]
            plan.amount_by[q] = amount * values_by[4 * i + BIOAVAILABILITY, q]
        amount *= bioavailability
        if rate == MODELLED_RATE:
            rate = values[4 * i + RATE]
            if not rate > 0.0:
                return records.IMPOSSIBLE_DOSE
            for q in range(m):
                plan.rate_by[q] = values_by[4 * i + RATE, q]
        elif rate == MODELLED_DURATION:
            duration = values[4 * i + DURATION]
            if not duration > 0.0:
                return records.IMPOSSIBLE_DOSE
            rate = amount / duration
            for q in range(m):
                plan.rate_by[q] = (plan.amount_by[q] - rate * values_by[4 * i + DURATION, q]) / duration
    elif rate < 0.0:
        return records.IMPOSSIBLE_DOSE
    if rate > 0.0:
        dose.duration = amount / rate
        for q in range(m):
            plan.duration_by[q] = (plan.amount_by[q] - dose.duration * plan.rate_by[q]) / rate
    dose.amount, dose.rate, dose.compartment, dose.interval = amount, rate, i, interval
    return records.GOOD


@cached_kernel
def solve_events(model, parameters, data, start, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
    """Predictions, and their derivatives by the individual parameters if ``gradient`` is not empty.

    Args:
        model: of :mod:`models.nlme.kernels.calls`.
        parameters: (n, m) float64.
        data: models.nlme.kernels.records.EventArrays.
        start: position in ``data`` of the first subject.
        shared: whether all n subjects have the events and times of that one.
        tolerance: per step, relative to the largest size each state has had.
        out: (N,) float64, receives the predictions of all subjects one after the other.
        gradient: (N, m), or (N, 0) if not wanted.

    Returns:
        The first failed row and the reason, or (-1, GOOD).
    """
    n, m = model[calls.N_STATES], gradient.shape[1]
    n_parameters, c = model[calls.N_PARAMETERS], model[calls.N_COVARIATES]
    row_start, event_start, when, kind = data.row_start, data.event_start, data.when, data.kind
    most = 0
    for i in range(start, start + 1 if shared else start + parameters.shape[0]):
        most = max(most, event_start[i + 1] - event_start[i])
    queue, plan = records.new_queue(4 * most + 4, m), records.new_plan(n, m)
    w, state = records.new_workspace(n, m), records.new_state(n, m)
    dose, y, y_by = plan.dose[0], state.y, state.y_by
    by_parameter, by_state = np.zeros(m), np.zeros(n)
    p = np.zeros(n_parameters + 2 * c + 2)
    for row in range(parameters.shape[0]):
        subject = start if shared else start + row
        event, r0, r1 = event_start[subject], row_start[subject], row_start[subject + 1]
        if r0 == r1:
            continue
        first, shift = event, row * (r1 - r0) - r0 if shared else -row_start[start]
        assign(p[:n_parameters], parameters[row])
        t = data.times[r0]
        if event < event_start[subject + 1]:
            t = min(t, when[event])
            if c > 0:  # the first event sets the covariates
                assign(p[n_parameters : n_parameters + 2 * c], data.covariates[event])
                p[n_parameters + 2 * c] = when[event]
        calls.call_initial(model, (t, p, y, y_by))
        for i in range(n):
            state.size[i] = abs(y[i])
        doses.stop_infusions(state)
        queue.length[0] = 0
        dose.stage = doses.NONE
        zero(w.explicit)
        step = 0.0
        for j in range(r0, r1):
            arrived = False
            while not arrived:
                begin, end, seeking = t, data.times[j], dose.stage != doses.NONE
                next_k, arrival, nominal = -1, math.inf, math.inf
                if seeking:  # a steady state
                    begin, end = t + dose.begin, t + dose.end
                else:
                    for k in range(queue.length[0]):
                        if queue.time[k] < arrival:
                            next_k, arrival = k, queue.time[k]
                    if event < first + data.before[j]:
                        nominal = when[event]
                    arrived = min(arrival, nominal) > end
                    end = min(end, arrival, nominal)
                if n > 0 and end != begin:
                    step = calls.call_advance(model, (begin, end, state, p, step, tolerance, w))
                    if step < 0.0:
                        return row, records.NOT_INTEGRATED
                if seeking:
                    step = 0.0
                    reason = doses.next_piece(model, t, state, p, queue, plan, tolerance)
                    if reason != records.GOOD:
                        return row, reason
                    continue
                t = max(t, end)
                if arrived:
                    break
                step = 0.0
                if arrival <= nominal:
                    doses.apply_entry(model, queue, next_k, t, state, p, plan.present, plan.infusing)
                    continue
                if kind[event] == records.COVARIATES:
                    assign(p[n_parameters : n_parameters + 2 * c], data.covariates[event])
                    p[n_parameters + 2 * c] = when[event]
                elif kind[event] == records.RESET:
                    queue.length[0] = 0
                    doses.stop_infusions(state)
                    calls.call_initial(model, (t, p, y, y_by))
                elif n > 0:
                    reason = plan_dose(
                        model, t, data.compartment[event], data.amount[event], data.rate[event], data.interval[event],
                        p, plan,
                    )  # fmt: skip
                    if reason == records.GOOD and kind[event] == records.DOSE:
                        doses.push_dose(queue, plan, t)
                    elif reason == records.GOOD:
                        doses.begin_steady_state(model, t, kind[event], state, p, queue, plan)
                        reason = doses.next_piece(model, t, state, p, queue, plan, tolerance)
                    if reason != records.GOOD:
                        return row, reason
                event += 1
            o = j + shift
            p[p.size - 1] = data.observed[j]
            out[o] = calls.call_output(model, (data.endpoint[j], data.times[j], y, p, by_parameter, by_state))
            if not math.isfinite(out[o]):
                return row, records.NOT_INTEGRATED
            for q in range(m):
                total = by_parameter[q]
                for i in range(n):
                    total += by_state[i] * y_by[i, q]
                gradient[o, q] = total
    return -1, records.GOOD
