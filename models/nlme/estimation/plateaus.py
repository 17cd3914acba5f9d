"""Variances that went to nearly 0, where the logarithmic coordinate of a fit is flat although it is no minimum.

The derivative of the objective by the logarithm of a variance vanishes with the variance itself, so a search that comes
close to 0 on its way ends there. Whether 0 is the minimum is seen by giving the variance some size again.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters

FloatArray = NDArray[np.float64]
SMALL = 0.01  # share of the residual variance, or of the start's variance of a random effect, that counts as nearly 0
SHARES = (0.01, 0.1, 0.3, 0.5)  # that are tried
LOWER = 0.1  # decrease of the objective that counts: twice what a minimisation may leave (minimise.GOOD_ENOUGH)


def escape(objective: Objective, coordinates: Coordinates, psi: FloatArray) -> FloatArray | None:
    """The best point near ψ at which a variance that is nearly 0 has some size, if its objective is lower; else None.

    ``objective.eta`` are the modes at ψ before and after.
    """
    values, kept = coordinates.unpack(psi), objective.eta.copy()
    best, found = np.inf, None
    trials = list(_trials(objective, coordinates, values))
    if not trials:
        return None
    limit = float(objective.evaluate(values).sum()) - LOWER
    for trial in trials:
        objective.eta[:] = kept
        try:
            total = float(objective.evaluate(trial).sum())
        except (SimulationError, np.linalg.LinAlgError):
            continue
        if total < min(best, limit):
            best, found = total, coordinates.pack(trial)
    objective.eta[:] = kept
    return found


def _trials(
    objective: Objective, coordinates: Coordinates, values: PopulationParameters
) -> Iterator[PopulationParameters]:  # fmt: skip
    """Population parameters in which one variance that is nearly 0 has some size."""
    free = set(coordinates.errors)
    predicted: FloatArray | None = None
    for endpoint in range(len(values.error) // 3):
        parts = (3 * endpoint, 3 * endpoint + 1)
        if not free.issuperset(parts):
            continue
        if predicted is None:
            predicted = objective.predict(values, objective.eta)[0]
        rows = objective.data.endpoint == endpoint
        size = float(np.sqrt(np.mean(predicted[rows] ** 2))) if rows.any() else 0.0
        variances = (values.error[list(parts)] * [1.0, size]) ** 2  # of an observation of usual size
        total = float(variances.sum())
        for part in (0, 1):
            if size > 0 and variances[part] < SMALL * total:
                for share in SHARES:
                    error = values.error.copy()
                    error[parts[part]] = np.sqrt(share * total) / (1.0, size)[part]
                    error[parts[1 - part]] *= np.sqrt(1.0 - share)
                    yield replace(values, error=error)
    start, own = np.diag(coordinates.start.omega), np.diag(values.omega)
    for copies in coordinates.copies:
        i, j = copies[0]
        if i == j and own[i] < SMALL * start[i]:
            for share in SHARES:
                factor = np.ones(len(own))
                factor[[row for row, _ in copies]] = np.sqrt(share * start[i] / own[i])
                yield replace(values, omega=values.omega * np.outer(factor, factor))
