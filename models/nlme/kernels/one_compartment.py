"""The solver of one compartment, with a depot or without, under doses that take effect at once.

What :func:`models.nlme.kernels.linear.solve_boluses` solves, where every output is the central amount times a scale
that the parameters alone decide (``concentration = central / v``), nothing is there at first and there are no
covariates (which come as events). A sixth of its time: the state is seven numbers, and the model's functions are called
once a subject, not at every observation.
"""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels import calls, records
from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.compiled import inlined
from image_longitudinal.models.nlme.kernels.linear_state import transfer


@inlined
def moved(h, ka, k, depot, depot_k, psi, psi_l, psi_k, zeta, zeta_l):  # type: ignore[no-untyped-def]
    """The state after a duration h, in the notation of :mod:`models.nlme.kernels.linear_state`.

    Amount in the depot and its derivative by ka; what came from there, divided by kt, and its derivatives by the rate
    of elimination k and by ka; what else is in the central compartment, and its derivative by k.
    """
    e = math.exp(-k * h)
    if depot != 0.0 or psi != 0.0:
        kept = math.exp(-ka * h)
        g, g_l, g_k = transfer(h, ka, k, kept, e)
        psi_l = e * (psi_l - h * psi) + g_l * depot
        psi_k = e * psi_k + g * depot_k + g_k * depot
        psi = e * psi + g * depot
        depot_k = kept * (depot_k - h * depot)
        depot = kept * depot
    return depot, depot_k, psi, psi_l, psi_k, e * zeta, e * (zeta_l - h * zeta)


@cached_kernel
def solve_one_compartment(  # type: ignore[no-untyped-def]
    model, parameters, data, start_at, shared, tolerance, out, gradient
):
    """As :func:`models.nlme.kernels.linear.solve_boluses`.

    ``model``: its rates are followed by the scale of each endpoint; its places are those of the linear form, followed
    by the number of endpoints.
    """
    m, n_parameters, nd = gradient.shape[1], model[calls.N_PARAMETERS], model[calls.N_DEPOTS]
    row_start, times, before, endpoint = data.row_start, data.times, data.before, data.endpoint
    event_start, when, compartment, amount = data.event_start, data.when, data.compartment, data.amount
    in_depot = model[calls.PLACES] if nd > 0 else -1
    size = 2 * nd + 1 + model[calls.PLACES + nd + 1]
    rates, rates_by = np.zeros(size), np.zeros((size, m))
    p = np.zeros(n_parameters + 2)  # (there are no covariates)
    ka, kt = 0.0, 0.0
    for row in range(parameters.shape[0]):
        subject = start_at if shared else start_at + row
        event, r0, r1 = event_start[subject], row_start[subject], row_start[subject + 1]
        if r0 == r1:
            continue
        first, o = event, row * (r1 - r0) if shared else r0 - row_start[start_at]
        since = times[r0]
        for a in range(n_parameters):
            p[a] = parameters[row, a]
        if event < event_start[subject + 1]:
            since = min(since, when[event])
        calls.call_rates(model, (since, p, rates, rates_by))
        if nd > 0:
            ka, kt = rates[0], rates[1]
        k = rates[2 * nd]
        if not math.isfinite(ka + k):
            return row, records.NOT_INTEGRATED
        depot, depot_k, psi, psi_l, psi_k, zeta, zeta_l = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(r0, r1):
            while event < first + before[j]:
                h = when[event] - since
                if h > 0.0:
                    depot, depot_k, psi, psi_l, psi_k, zeta, zeta_l = moved(
                        h, ka, k, depot, depot_k, psi, psi_l, psi_k, zeta, zeta_l
                    )
                    since = when[event]
                if compartment[event] == in_depot:
                    depot += amount[event]
                else:
                    zeta += amount[event]
                event += 1
            _, _, psi_t, by_l, by_k, total, zeta_l_t = moved(
                times[j] - since, ka, k, depot, depot_k, psi, psi_l, psi_k, zeta, zeta_l
            )
            total += kt * psi_t
            scaled = 2 * nd + 1 + endpoint[j]
            scale = rates[scaled]
            out[o] = scale * total
            if not math.isfinite(out[o]):
                return row, records.NOT_INTEGRATED
            by_l = scale * (zeta_l_t + kt * by_l)
            for a in range(m):
                gradient[o, a] = by_l * rates_by[2 * nd, a] + total * rates_by[scaled, a]
            if nd > 0:
                by_k, psi_t = scale * kt * by_k, scale * psi_t
                for a in range(m):
                    gradient[o, a] += by_k * rates_by[0, a] + psi_t * rates_by[1, a]
            o += 1
    return -1, records.GOOD
