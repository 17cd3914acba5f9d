"""The solver of linear compartments: closed form from event to event, for every kind of event.

Events are taken as :mod:`models.nlme.kernels.event_integration` takes them.
"""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels import calls, doses, records
from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import apart, assign, compiled, inlined
from image_longitudinal.models.nlme.kernels.event_integration import plan_dose
from image_longitudinal.models.nlme.kernels.linear_state import (
    AMOUNT,
    add,
    advance,
    amounts,
    compartment_of,
    infuse,
    mode_by,
    new_linear,
    set_amounts,
    spread,
    stop_infusions,
)
from image_longitudinal.models.nlme.kernels.linear_steady import steady_state
from image_longitudinal.models.nlme.kernels.spectrum import renew

TOLERANCE = 0.0  # there is none: the solution is exact


@inlined
def observe(model, endpoint, t, s, p, by_parameter, by_state, gradient):  # type: ignore[no-untyped-def]
    """The prediction at time t; ``gradient`` (m,) receives its derivatives."""
    places, modes, depots, passed, exchange, modes_by, depots_by, exchange_by, y = (
        s.places, s.modes, s.depots, s.passed, s.exchange, s.modes_by, s.depots_by, s.exchange_by, s.y,
    )  # fmt: skip
    nd, nc, m = depots.size, modes.size, gradient.size
    y[places[nd]] = 0.0
    for d in range(nd):
        y[places[d]] = depots[d].amount
    for i in range(nc):
        total = modes[i].zeta
        for d in range(nd):
            total += depots[d].kt * passed[i, d].psi
        y[places[nd]] += total * modes[i].weight
        for j in range(1, nc):
            y[places[nd + j]] = (0.0 if i == 0 else y[places[nd + j]]) + total * exchange[i, j].right
    value = calls.call_output(model, (endpoint, t, y, p, by_parameter, by_state))
    for a in range(m):
        gradient[a] = by_parameter[a]
        for d in range(nd):
            by = depots_by[d, a]
            gradient[a] += by_state[places[d]] * (depots[d].amount_k * by.ka + by.amount)
    for i in range(nc if m > 0 else 0):
        mode = modes[i]
        total, by_l, seen = mode.zeta, mode.zeta_l, by_state[places[nd]] * mode.weight
        for j in range(1, nc):
            seen += by_state[places[nd + j]] * exchange[i, j].right
        for d in range(nd):
            total += depots[d].kt * passed[i, d].psi
            by_l += depots[d].kt * passed[i, d].psi_l
        for a in range(m):
            gradient[a] += seen * mode_by(s, i, a, by_l)
            if nc > 1:
                shared = by_state[places[nd]] * modes_by[i, a].weight
                for j in range(1, nc):
                    shared += by_state[places[nd + j]] * exchange_by[i, j, a].right
                gradient[a] += total * shared
    return value


@apart
def start(model, t, s, p):  # type: ignore[no-untyped-def]
    """The model's initial state."""
    y, y_by = s.y, s.y_by
    calls.call_initial(model, (t, p, y, y_by))
    set_amounts(s)


@apart
def apply_entry(queue, k, s):  # type: ignore[no-untyped-def]
    """Let entry k of the queue change the state and infusion rates, and remove it unless it repeats."""
    place, bolus, change = queue.compartment[k], queue.bolus[k], queue.rate_change[k]
    m = queue.time_by.shape[1]
    moves = False
    for a in range(m):
        moves = moves or queue.time_by[k, a] != 0.0
    if bolus != 0.0:
        add(s, place, AMOUNT, bolus, queue.bolus_by[k])
    if change != 0.0:
        infuse(s, place, change, queue.rate_change_by[k], 1.0)
    if moves:
        delayed(s, place, bolus, change, queue.time_by[k])
    doses.repeat_or_remove(queue, k)


@apart
def delayed(s, place, bolus, change, time_by):  # type: ignore[no-untyped-def]
    """Derivatives by the time of a jump of an amount and of an infusion rate: -(slope after - before) d time."""
    more, modes, depots, exchange, modes_by, depots_by = s.more, s.modes, s.depots, s.exchange, s.modes_by, s.depots_by
    nd = depots.size
    more[0] = True
    own = compartment_of(s, place)
    for a in range(time_by.size):
        if own < nd:
            depots_by[own, a].amount -= (change - depots[own].ka * bolus) * time_by[a]
        for i in range(modes.size):
            if own < nd:
                slope = depots[own].kt * bolus
            else:
                share = exchange[i, own - nd].left if own > nd else 1.0
                slope = share * (change - modes[i].decay * bolus)
            modes_by[i, a].zeta -= slope * time_by[a]


@compiled
def begin(model, subject, parameters, data, s, p):  # type: ignore[no-untyped-def]
    """A subject's parameters, covariates, modes and initial state; its first time, NaN if its modes do not exist."""
    n_parameters, c = model[calls.N_PARAMETERS], model[calls.N_COVARIATES]
    event, t = data.event_start[subject], data.times[data.row_start[subject]]
    assign(p[:n_parameters], parameters)
    if event < data.event_start[subject + 1]:
        t = min(t, data.when[event])
        if c > 0:  # the first event sets the covariates
            assign(p[n_parameters : n_parameters + 2 * c], data.covariates[event])
            p[n_parameters + 2 * c] = data.when[event]
    if not renew(model, t, p, s):
        return math.nan
    start(model, t, s, p)
    return t


@compiled
def change_covariates(model, t, new, s, p):  # type: ignore[no-untyped-def]
    """Go on with other covariates (2c,) from time t; whether the modes exist."""
    n_parameters, c = model[calls.N_PARAMETERS], model[calls.N_COVARIATES]
    same = True
    for i in range(c):
        same = same and p[n_parameters + i] == new[i]
    if same:
        return True
    amounts(s, s.y_by.shape[1])
    assign(p[n_parameters : n_parameters + 2 * c], new)
    p[n_parameters + 2 * c] = t
    if not renew(model, t, p, s):
        return False
    set_amounts(s)
    spread(s)
    return True


@apart
def solve_subject(  # type: ignore[no-untyped-def]
    model, subject, parameters, data, s, p, queue, plan, initial, initial_by, by_parameter, by_state, out, gradient
):
    """The predictions ``out`` (T,) and ``gradient`` (T, m) of a subject with any events; GOOD, or why not."""
    event, r0, kind, when = data.event_start[subject], data.row_start[subject], data.kind, data.when
    first = event
    t = begin(model, subject, parameters, data, s, p)
    if not math.isfinite(t):
        return records.NOT_INTEGRATED
    queue.length[0] = 0
    stop_infusions(s)
    for j in range(r0, data.row_start[subject + 1]):
        while True:
            next_k, arrival, nominal, reason = -1, math.inf, math.inf, records.GOOD
            for k in range(queue.length[0]):
                if queue.time[k] < arrival:
                    next_k, arrival = k, queue.time[k]
            if event < first + data.before[j]:
                nominal = when[event]
            end = min(data.times[j], arrival, nominal)
            if end > t:
                advance(end - t, s)
                t = end
            if min(arrival, nominal) > data.times[j]:
                break
            if arrival <= nominal:
                apply_entry(queue, next_k, s)
                continue
            if kind[event] == records.COVARIATES:
                if not change_covariates(model, when[event], data.covariates[event], s, p):
                    reason = records.NOT_INTEGRATED
            elif kind[event] == records.RESET:
                queue.length[0] = 0
                stop_infusions(s)
                start(model, t, s, p)
            else:
                reason = plan_dose(
                    model, t, data.compartment[event], data.amount[event], data.rate[event], data.interval[event],
                    p, plan,
                )  # fmt: skip
                if reason == records.GOOD and kind[event] == records.DOSE:
                    doses.push_dose(queue, plan, t)
                elif reason == records.GOOD:
                    reason = steady_state(model, t, kind[event], s, p, queue, plan, initial, initial_by)
            if reason != records.GOOD:
                return reason
            event += 1
        by, p[p.size - 1] = gradient[j - r0], data.observed[j]
        out[j - r0] = observe(model, data.endpoint[j], data.times[j], s, p, by_parameter, by_state, by)
        if not math.isfinite(out[j - r0]):
            return records.NOT_INTEGRATED
    return records.GOOD


@cached_kernel
def solve_linear(model, parameters, data, start_at, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
    """As :func:`models.nlme.kernels.event_integration.solve_events`, for covariates that are constant between events.

    ``tolerance`` is not used: the solution is exact.
    """
    n, m = model[calls.N_STATES], gradient.shape[1]
    event_start, row_start = data.event_start, data.row_start
    s = new_linear(model, m)
    by_parameter, by_state = np.zeros(m), np.zeros(n)
    p = np.zeros(model[calls.N_PARAMETERS] + 2 * model[calls.N_COVARIATES] + 2)
    most = 0
    for i in range(start_at, start_at + 1 if shared else start_at + parameters.shape[0]):
        most = max(most, event_start[i + 1] - event_start[i])
    queue, plan = records.new_queue(4 * most + 4, m), records.new_plan(n, m)
    initial, initial_by = np.zeros(n), np.zeros((n, m))
    for row in range(parameters.shape[0]):
        subject = start_at if shared else start_at + row
        r0, r1 = row_start[subject], row_start[subject + 1]
        if r0 == r1:
            continue
        o = row * (r1 - r0) if shared else r0 - row_start[start_at]
        reason = solve_subject(
            model, subject, parameters[row], data, s, p, queue, plan, initial, initial_by, by_parameter, by_state,
            out[o : o + r1 - r0], gradient[o : o + r1 - r0],
        )  # fmt: skip
        if reason != records.GOOD:
            return row, reason
    return -1, records.GOOD


@cached_kernel
def solve_boluses(model, parameters, data, start_at, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
    """As :func:`solve_linear`, where every event is a dose that takes effect at once and at its time.

    A kernel of its own, because most data need no other, and the other one takes several times as long to compile.
    """
    n, m = model[calls.N_STATES], gradient.shape[1]
    event_start, row_start = data.event_start, data.row_start
    s = new_linear(model, m)
    by_parameter, by_state, none = np.zeros(m), np.zeros(n), np.zeros(m)
    p = np.zeros(model[calls.N_PARAMETERS] + 2 * model[calls.N_COVARIATES] + 2)
    for row in range(parameters.shape[0]):
        subject = start_at if shared else start_at + row
        event, r0, r1 = event_start[subject], row_start[subject], row_start[subject + 1]
        if r0 == r1:
            continue
        first, moved = event, row * (r1 - r0) - r0 if shared else -row_start[start_at]
        t = begin(model, subject, parameters[row], data, s, p)
        if not math.isfinite(t):
            return row, records.NOT_INTEGRATED
        for j in range(r0, r1):
            while True:
                given = event < first + data.before[j]
                end = data.when[event] if given else data.times[j]
                if end > t:
                    advance(end - t, s)
                    t = end
                if not given:
                    break
                add(s, data.compartment[event], AMOUNT, data.amount[event], none)
                event += 1
            o = j + moved
            p[p.size - 1] = data.observed[j]
            out[o] = observe(model, data.endpoint[j], data.times[j], s, p, by_parameter, by_state, gradient[o])
            if not math.isfinite(out[o]):
                return row, records.NOT_INTEGRATED
    return -1, records.GOOD
