"""Predictions of generated models in closed form: formulas of time, parameters and covariates."""

from __future__ import annotations

import math

import numpy as np

from models.nlme.kernels.compiled import Compiled, assign, compiled

COVARIATES, GOOD, NOT_INTEGRATED = 4, 0, 1  # as in kernels.course


def make_run(n_parameters: int, n_covariates: int, output: Compiled, output_gradient: Compiled) -> Compiled:
    """As :func:`models.nlme.kernels.course.make_run`, for a model without states; doses mean nothing to it."""

    @compiled
    def run(parameters, data, start, shared, tolerance, out, gradient):  # type: ignore[no-untyped-def]
        c, x = n_covariates, np.empty(0)
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
                out[j + shift] = output(data.endpoint[j], data.times[j], x, p)
                if not math.isfinite(out[j + shift]):
                    return row, NOT_INTEGRATED
                if gradient.shape[1] > 0:
                    output_gradient(data.endpoint[j], data.times[j], x, p, gradient[j + shift], x)
        return -1, GOOD

    return run
