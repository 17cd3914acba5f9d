"""Compiled kernel of the model ``depot-central-mm``: first-order absorption, Michaelis-Menten elimination.

The depot is analytic between stops (doses, ends of infusions, observations), so one scalar stiff equation is left,

    y' = F(t) - V y / (K + y),    F(t) = ka · depot(t) + infusion rate into the central compartment.

It is advanced by implicit two-point Taylor (Hermite-Obreshkov) formulas whose stability functions are Padé approximants
of the exponential below its diagonal: L-stable (Hairer & Wanner, *Solving Ordinary Differential Equations II*, IV.3).
Their implicit equation is a scalar one for Newton's method. Predictions alone are made for several subjects at a time,
:mod:`.lanes`; predictions with derivatives one by one, :mod:`.sensitivities`. The exact solution is non-negative, so
projecting an iterate onto y ≥ 0 never moves it away.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.calls import bind
from image_longitudinal.models.nlme.kernels.depot_central.lanes import predict
from image_longitudinal.models.nlme.kernels.depot_central.sensitivities import differentiate

# Per-step error bound relative to the largest dose. The largest global error of 200,000 random subjects is 1.3e-7; at
# 1e-7, 5 % faster, it was 4.1e-7 (where elimination leaves saturation, a step may jump over part of the corner).
TOLERANCE = 3e-8


@cached_kernel
def solve(
    model: np.ndarray, parameters: np.ndarray, data: Any, start: int, shared: bool, tolerance: float,
    out: np.ndarray, gradient: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Predictions, and their derivatives if wanted; as :func:`models.nlme.kernels.course.solve`, for plain events.

    Args:
        model: of :mod:`models.nlme.kernels.calls`; nothing of it is looked at.
        parameters: (n, 3) float64: ka, imax, ic50, all positive.
        data: image_longitudinal.models.nlme.data.population_data.Arrays whose events are doses of known amount and rate.
        start: position in ``data`` of the first subject.
        shared: whether all subjects have the events and times of that one.
        tolerance: per step, relative to the largest dose, or absolute where there is none.
        out: (N,) float64, receives the central amount.
        gradient: (N, 3), or (N, 0) if not wanted.

    Returns:
        The first failed row and the reason, or (-1, 0).
    """
    if gradient.shape[1] > 0:
        failed = differentiate(parameters, data, start, shared, tolerance, out, gradient)
    else:
        failed = predict(parameters, data, start, shared, tolerance, out)
    return failed, 1 if failed >= 0 else 0


model, run = bind(solve, {})
