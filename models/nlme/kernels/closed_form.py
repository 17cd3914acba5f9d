"""Predictions of generated models in closed form: formulas in time, parameters and covariates."""

import math

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import N_COVARIATES, N_PARAMETERS, call_output
from image_longitudinal.models.nlme.kernels.compiled import assign
from image_longitudinal.models.nlme.kernels.event_arrays import COVARIATES
from image_longitudinal.models.nlme.kernels.records import GOOD, NOT_INTEGRATED


@cached_kernel
def solve_formula(model, parameters, data, start, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
    """As :func:`models.nlme.kernels.event_integration.solve_events`, for a model without states; doses are ignored."""
    n_parameters, c, x = model[N_PARAMETERS], model[N_COVARIATES], np.empty(0)
    p = np.zeros(n_parameters + 2 * c + 1)
    for row in range(parameters.shape[0]):
        subject = start if shared else start + row
        first, r0, r1 = data.event_start[subject], data.row_start[subject], data.row_start[subject + 1]
        event, shift = first, row * (r1 - r0) - r0 if shared else -data.row_start[start]
        assign(p[:n_parameters], parameters[row])
        for j in range(r0, r1):
            while c > 0 and event < first + data.before[j]:
                if data.kind[event] == COVARIATES:
                    assign(p[n_parameters : n_parameters + 2 * c], data.covariates[event])
                    p[n_parameters + 2 * c] = data.when[event]
                event += 1
            o = j + shift
            out[o] = call_output(model, (data.endpoint[j], data.times[j], x, p, gradient[o], x))
            if not math.isfinite(out[o]):
                return row, NOT_INTEGRATED
    return -1, GOOD
