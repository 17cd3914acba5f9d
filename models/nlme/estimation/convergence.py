"""Is the end of a search a minimum? Tests in every direction, before a fit says that it converged.

A vanishing gradient is also that of a saddle and of a plateau, and a gradient of differences may be wrong. Three tests:
the objective must not fall by a step of about one standard error along any coordinate, in either direction; it must not
fall along a direction in which its Hessian curves downwards or hardly at all; and what the gradient promises along each
direction of the Hessian must be small.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.core.progress import Counter
from image_longitudinal.models.nlme.estimation.minimise import GOOD_ENOUGH

FloatArray = NDArray[np.float64]
LOWER = 2.0 * GOOD_ENOUGH  # decrease of the objective that counts: twice what a minimisation may leave
FLAT = 1e-2  # curvature, of 1 along each coordinate, below which a direction is searched further out
STEPS = (1.0, 3.0)  # along coordinates, in steps that raise the objective by 1, 9
FAR_STEPS = (0.5, 1.0, 2.0, 4.0, 8.0)  # along directions without curvature, same unit
LARGEST = 2.0  # change of a coordinate (a logarithm, mostly) in a test


@dataclass(frozen=True, eq=False)
class Nearby:
    """What the tests found around an end ψ of a search.

    ``lower``: a point with a lower objective, (m,), or None. ``predicted_decrease``: what the gradient still promises
    where the Hessian curves upwards. ``steepest``: position of the coordinate that has most of it.
    """

    lower: FloatArray | None
    predicted_decrease: float
    steepest: int

    @property
    def is_minimum(self) -> bool:
        """Whether no test found a lower point."""
        return self.lower is None and self.predicted_decrease <= LOWER


def look_around(
    function: Callable[[FloatArray], float],
    psi: FloatArray,
    gradient: FloatArray,
    hessian: FloatArray,
    shown: bool = False,
) -> Nearby:
    """Test an end of a search.

    Args:
        function: the objective at a point; SimulationError or LinAlgError where it does not exist.
        psi: the end, (m,).
        gradient, hessian: of the objective there, (m,) and (m, m).
        shown: report how many directions are tested.
    """
    curved = np.abs(np.diag(hessian))
    scale = 1.0 / np.sqrt(np.maximum(curved, 1e-6 * curved.max(initial=0.0) + 1e-12))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    along = vectors.T @ (scale * gradient)
    held = values > FLAT
    decrease = 0.5 * along[held] ** 2 / values[held]
    newton = -scale * (vectors[:, held] @ (along[held] / values[held]))
    predicted = float(decrease.sum())
    trials = list(_trials(scale, vectors[:, ~held]))
    if predicted > LOWER:
        trials.insert(0, newton * min(1.0, LARGEST / float(np.abs(newton).max())))
    best, lower = _value(function, psi) - LOWER, None
    counter = Counter("test of the minimum", len(trials), "points") if shown else None
    for done, move in enumerate(trials, 1):
        value = _value(function, psi + move)
        if value < best:
            best, lower = value, psi + move
        if counter:
            counter.update(done)
    steepest = int(np.argmax(np.abs(newton) / scale)) if len(psi) else 0
    return Nearby(lower, predicted, steepest)


def _value(function: Callable[[FloatArray], float], point: FloatArray) -> float:
    try:
        return function(point)
    except (SimulationError, np.linalg.LinAlgError):
        return np.inf


def _trials(scale: FloatArray, flat: FloatArray) -> Iterator[FloatArray]:
    """Moves along coordinates, and along directions (m, q), in units ``scale`` (m,), that hardly curve upwards."""
    unit = np.sqrt(2.0) * scale  # raises a quadratic objective of this curvature by 1
    for columns, steps in ((np.eye(len(scale)), STEPS), (flat, FAR_STEPS)):
        for column in columns.T:
            for step in steps:
                move = step * unit * column
                move *= min(1.0, LARGEST / float(np.abs(move).max()))
                yield move
                yield -move
