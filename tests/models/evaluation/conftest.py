"""A population with outcomes at one association level, and features of its images."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.design.association import associate
from image_longitudinal.models.nlme.estimation.ebes import empirical_bayes
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

MODEL = get_model("depot-central-mm")
TRAIN = 1500


@dataclass(frozen=True, eq=False)
class Population:
    """Training subjects first, then test subjects: ids, features, linked and true effects, outcomes, modes."""

    ids: NDArray[np.int64]
    features: NDArray[np.float64]
    linked: NDArray[np.float64]
    eta: NDArray[np.float64]
    observed: NDArray[np.float64]
    modes: NDArray[np.float64]


def r2(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Pooled R² of predicted effects (n, k)."""
    return float(1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean(0)).sum())


def coverage(distance: NDArray[np.float64], omega: NDArray[np.float64]) -> float:
    """Fraction of distances (n, 3) inside the central 90 % region of N(0, Ω)."""
    inside = np.einsum("ni,ij,nj->n", distance, np.linalg.inv(omega), distance) < stats.chi2.ppf(0.9, 3)
    return float(inside.mean())


@lru_cache
def population(level: float) -> Population:
    """3,000 subjects; the features are eight entries of z, three of them the linked effects, each slightly blurred."""
    ids = np.arange(2 * TRAIN)
    z = normals(stream_key(3, "z"), ids, 8)
    linked = z[:, :3]
    eta = associate(linked, level, omega=MODEL.omega, seed=3, ids=ids)
    observed = observe(MODEL, simulate(MODEL, eta), key=stream_key(3, "noise", level), ids=ids)
    features = z + 0.1 * normals(stream_key(3, "blur"), ids, 8)
    return Population(ids, features, linked, eta, observed, empirical_bayes(MODEL, observed).eta)
