"""Covariance of estimates, from the Hessian of the objective and the covariance of the subjects' gradients."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.estimation.objective import Objective

FloatArray = NDArray[np.float64]
DIFFERENCE = 1e-3  # central differences in coordinates that are logarithms or of order 1


class SearchSpace(Protocol):
    """Subjects' objectives and gradients as functions of ψ."""

    objective: Objective
    coordinates: Coordinates

    def individual_objectives(self, psi: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Each subject's objective (n,) and gradient (n, m)."""


def covariance_of(search: SearchSpace, psi: FloatArray, kind: str) -> tuple[FloatArray, str]:
    """Covariance (m, m) of the estimates on their natural scale, and a message if it does not exist.

    ``kind`` as in :func:`models.nlme.estimation.fit.fit`.
    """
    m = len(psi)
    nothing = np.full((m, m), np.nan)
    if kind == "none" or not m:
        return nothing, ""
    kept = search.objective.eta.copy()
    gradients = search.individual_objectives(psi)[1]
    score = 0.25 * gradients.T @ gradients
    hessian = np.empty((m, m))
    for j in range(m if kind != "gradient" else 0):
        pair = []
        for sign in (1.0, -1.0):
            moved = psi.copy()
            moved[j] += sign * DIFFERENCE
            search.objective.eta[:] = kept
            pair.append(search.individual_objectives(moved)[1].sum(axis=0))
        hessian[:, j] = 0.5 * (pair[0] - pair[1]) / (2 * DIFFERENCE)
    search.objective.eta[:] = kept
    information = score if kind == "gradient" else 0.5 * (hessian + hessian.T)
    if np.linalg.eigvalsh(information)[0] <= 0:
        return nothing, "no standard errors: the objective is not convex at the estimates"
    matrix = np.linalg.inv(information)
    if kind == "sandwich":
        matrix = matrix @ score @ matrix
    steps = 1e-6 * np.eye(m)
    slope = [(search.coordinates.natural(psi + s) - search.coordinates.natural(psi - s)) / 2e-6 for s in steps]
    jacobian = np.stack(slope, axis=1)
    return jacobian @ matrix @ jacobian.T, ""


def condition_number(covariance: FloatArray) -> float:
    """Condition number of the estimates' correlation matrix; NaN without a covariance (m, m)."""
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    finite = len(covariance) > 0 and np.isfinite(correlation).all()
    return float(np.linalg.cond(correlation)) if finite else float("nan")
