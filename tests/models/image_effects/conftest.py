"""A small trial with irregular visits, and images whose spot tells two of three random effects."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import simulate

MODEL = get_model("one-compartment")
TIMES = np.array([0.5, 2.0, 8.0, 24.0])
SHARE = 0.7  # of the variances of cl and v that z determines


@dataclass(frozen=True, eq=False)
class Trial:
    """Outcomes, true effects (n, 3), features (n, 8) of which two tell cl and v, images (n, 16, 16) uint8."""

    data: PopulationData
    eta: NDArray[np.float64]
    features: NDArray[np.float64]
    images: NDArray[np.uint8]


@lru_cache
def trial(n: int = 160, seed: int = 1) -> Trial:
    """Subjects with one to four visits each."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 8))
    eta = 0.3 * rng.normal(size=(n, 3))
    eta[:, 1:] = np.sqrt(SHARE) * 0.3 * features[:, :2] + np.sqrt(1 - SHARE) * eta[:, 1:]
    outcomes = simulate(replace(MODEL, design=replace(MODEL.design, times=tuple(TIMES))), eta)
    observed = outcomes * (1 + 0.1 * rng.normal(size=outcomes.shape))
    whole = PopulationData.of_design(MODEL.structural, observed, TIMES, MODEL.design.doses)
    kept = rng.uniform(size=observed.shape) < 0.7
    kept[:, 1] = True
    y, x = np.mgrid[0:16, 0:16]
    spot = np.exp(
        -((x - 8 - 1.5 * features[:, 0, None, None]) ** 2 + (y - 8 - 1.5 * features[:, 1, None, None]) ** 2) / 8
    )
    images = np.clip(200 * spot + 10 * rng.normal(size=spot.shape) + 20, 0, 255).astype(np.uint8)
    return Trial(whole.with_rows(kept.ravel()), eta, features, images)


def r2(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """R² of each effect, (k,)."""
    return np.asarray(1 - np.square(truth - predicted).sum(0) / np.square(truth - truth.mean(0)).sum(0))
