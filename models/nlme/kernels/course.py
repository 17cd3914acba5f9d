"""Through a subject's events: doses, infusions, resets, steady states and changes of covariates, for generated models.

Events come one by one at their nominal times. A dose is put in the queue of what arrives later (after the lag time; the
end of an infusion), so that its lag time, bioavailability, rate and duration may depend on the parameters and on the
covariates of that time. Sensitivities follow through all of it: where the time τ of a jump depends on a parameter, the
derivative of the state jumps by (x'(τ-) - x'(τ+)) dτ/dp.
"""

from __future__ import annotations

import math

import numpy as np

from models.nlme.kernels.compiled import Compiled, assign, assign2, compiled

DOSE, STEADY, STEADY_ADDED, RESET, COVARIATES = range(5)  # models.nlme.data has the same
LAG, BIOAVAILABILITY, RATE, DURATION = range(4)  # structural.MODIFIERS, in that order
GOOD, NOT_INTEGRATED, NO_STEADY_STATE, NO_RATE = range(4)  # why a subject failed
# what is going on with a steady-state dose: columns of the plan, and its stages
AMOUNT, SPEED, LENGTH, LAG_TIME, WHERE, EVERY, COUNT, REST, ADDED, CYCLE, CHANGED, STAGE, FROM, TO, STOP = range(15)
NONE, FOREVER, NEXT, FIRST_PART, LAST, LAST_FIRST_PART = range(6)
CYCLES = 10_000  # dosing intervals after which a steady state is given up
AT_LEAST, DOUBLINGS = 20, 60  # of the time of a constant infusion, from 1 on: 1e6 is late enough to call it steady
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


def make_run(
    n_states: int, n_parameters: int, n_covariates: int, modelled: bool, advance: Compiled, workspace: Compiled,
    rhs: Compiled, initial: Compiled, initial_gradient: Compiled, output: Compiled, output_gradient: Compiled,
    dosing: Compiled, dosing_gradient: Compiled,
) -> Compiled:  # fmt: skip
    """The function that runs subjects through their events, for one model's compiled functions.

    ``modelled``: the model says something about its doses. The parts are closures over the model's functions, not
    functions that take them: only then can numba keep the whole in its on-disk cache.
    """

    @compiled
    def begin(t, y, sens, p):  # type: ignore[no-untyped-def]
        initial(t, p, y)
        if sens.shape[1] > 0:
            initial_gradient(t, p, sens)

    @compiled
    def arrive(k, t, y, sens, p, rate, rate_by, size, queue, slopes):  # type: ignore[no-untyped-def]
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
            rhs(t, y, p, slopes[0])
            y[i] -= what[k, BOLUS]
            rhs(t, y, p, slopes[1])
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
    def proceed(t, y, sens, p, rate, rate_by, size, queue, plan, tolerance):  # type: ignore[no-untyped-def]
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
            rhs(t, y, p, old[3])
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

    @compiled
    def give(t, kind, i, amount, r, interval, y, sens, p, rate, rate_by, size, queue, plan, tolerance):  # type: ignore[no-untyped-def]
        """A dose event at its nominal time t: into the queue, or (steady states) into ``plan``, to be gone through."""
        now, by, old, old_by = plan
        n, m = y.size, sens.shape[1]
        now[LAG_TIME], now[LENGTH] = 0.0, 0.0
        for q in range(m):
            by[AMOUNT, q] = by[SPEED, q] = by[LENGTH, q] = by[LAG_TIME, q] = 0.0
        if modelled:
            own, own_by = np.empty(4 * n), np.empty((4 * n, m))
            dosing(t, p, own)
            if m > 0:
                dosing_gradient(t, p, own_by)
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
        begin(t, y, sens, p)
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
        return proceed(t, y, sens, p, rate, rate_by, size, queue, plan, tolerance)

    @compiled
    def run(parameters, data, start, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
        """Predictions, and their derivatives by the individual parameters if ``gradient`` is not empty.

        Args:
            parameters: (n, m) float64.
            data: models.nlme.data.Arrays.
            start: position in ``data`` of the first subject.
            shared: whether all n subjects have the events and times of that one.
            tolerance: per step, relative to the largest size each state has had.
            out: (N,) float64, receives the predictions of all subjects one after the other.
            gradient: (N, m), or (N, 0) if not wanted.

        Returns:
            The first failed row and the reason, or (-1, GOOD).
        """
        n, m, c = n_states, gradient.shape[1], n_covariates
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
            begin(t, y, sens, p)
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
                        step = advance(begun, end, y, sens, p, rate, rate_by, size, step, tolerance, w)
                        if step < 0.0:
                            return row, NOT_INTEGRATED
                    if busy:
                        step = 0.0
                        reason = proceed(t, y, sens, p, rate, rate_by, size, queue, plan, tolerance)
                        if reason != GOOD:
                            return row, reason
                        continue
                    t = max(t, end)
                    if there:
                        break
                    step = 0.0
                    if arrival <= nominal:
                        arrive(next_k, t, y, sens, p, rate, rate_by, size, queue, plan[2])
                        continue
                    if kind[event] == COVARIATES:
                        assign(p[n_parameters : n_parameters + 2 * c], covariates[event])
                        p[n_parameters + 2 * c] = when[event]
                    elif kind[event] == RESET:
                        queue[4][0] = 0
                        stop_infusions(rate, rate_by)
                        begin(t, y, sens, p)
                    elif n > 0:
                        reason = give(
                            t, kind[event], compartment[event], amount[event], infused[event],
                            interval[event], y, sens, p, rate, rate_by, size, queue, plan, tolerance,
                        )  # fmt: skip
                        if reason != GOOD:
                            return row, reason
                    event += 1
                o = j + shift
                out[o] = output(endpoint[j], times[j], y, p)
                if not math.isfinite(out[o]):
                    return row, NOT_INTEGRATED
                if m > 0:
                    output_gradient(endpoint[j], times[j], y, p, by_parameter, by_state)
                    for q in range(m):
                        total = by_parameter[q]
                        for i in range(n):
                            total += by_state[i] * sens[i, q]
                        gradient[o, q] = total
        return -1, GOOD

    return run
