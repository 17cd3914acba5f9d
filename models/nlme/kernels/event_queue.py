"""Events of a subject that are still to come: doses after their lag times, and ends of infusions."""

from image_longitudinal.models.nlme.kernels.calls import call_rhs
from image_longitudinal.models.nlme.kernels.compiled import assign, compiled


@compiled
def stop_infusions(state):  # type: ignore[no-untyped-def]
    """All infusion rates 0."""
    for i in range(state.rate.size):
        state.rate[i] = 0.0
        for q in range(state.rate_by.shape[1]):
            state.rate_by[i, q] = 0.0


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
