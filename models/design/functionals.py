"""What a trajectory is summarised by, so that effects and bias are numbers: last outcome, area, slope."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.design.normals import weighted_sum

FUNCTIONALS = ("outcome", "area", "slope")
FloatArray = NDArray[np.float64]


def functional_weights(times: Sequence[float]) -> dict[str, FloatArray]:
    """Weights (T,) of the outcomes at ``times`` by functional.

    ``outcome``: the last one. ``area``: under the outcomes by the trapezoidal rule. ``slope``: of the least-squares
    line. Area and slope of a single time are 0.
    """
    at = np.asarray(times, np.float64)
    last, area = np.zeros(len(at)), np.zeros(len(at))
    last[-1] = 1.0
    area[:-1] += np.diff(at) / 2
    area[1:] += np.diff(at) / 2
    centred = at - at.mean()
    return {"outcome": last, "area": area, "slope": centred / max(float(centred @ centred), 1e-300)}


def summarise(outcomes: FloatArray, times: Sequence[float]) -> dict[str, FloatArray]:
    """Functionals (n,) of outcomes (n, T) at ``times``."""
    return {name: weighted_sum(outcomes, weights) for name, weights in functional_weights(times).items()}
