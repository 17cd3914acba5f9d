"""Visual predictive check: percentiles of the observations over time against those of simulated replicates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import replicates
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
PERCENTILES = (5.0, 50.0, 95.0)
BAND = (2.5, 97.5)
MOST_BINS = 12


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Percentiles q of the outcome in B time bins.

    ``time`` (B,): median observation time of each bin; ``count`` (B,); ``percentiles`` (q,); ``observed`` (B, q);
    ``low``, ``middle``, ``high`` (B, q): median and 95 % band of the simulated percentiles. ``corrected``: whether
    outcomes are prediction-corrected. ``times`` and ``outcomes`` (N,): the observations.
    """

    time: FloatArray
    count: NDArray[np.int64]
    percentiles: tuple[float, ...]
    observed: FloatArray
    low: FloatArray
    middle: FloatArray
    high: FloatArray
    corrected: bool
    times: FloatArray
    outcomes: FloatArray

    @property
    def inside(self) -> float:
        """Share of the observed percentiles that lie in their band."""
        return float(((self.low <= self.observed) & (self.observed <= self.high)).mean())


def predictive_check(
    model: PopulationModel,
    data: PopulationData,
    *,
    n: int = 200,
    seed: int = 1,
    bins: int | ArrayLike | None = None,
    corrected: bool = False,
) -> PredictiveCheck:
    """Simulate the data's own designs ``n`` times under a model and compare percentiles bin by bin.

    Args:
        model: the population model.
        data: observations and designs.
        n: replicates.
        seed: of the replicates.
        bins: number of bins with about equally many observations, or their edges (ascending); None: one bin per
            distinct time if there are at most 24, else 12.
        corrected: prediction correction (Bergstrand et al. 2011, AAPS J 13:143): each outcome is multiplied by the
            bin's median population prediction over its own, so that doses and covariates that differ within a bin do
            not widen it. An outcome with population prediction 0 is not changed.

    Raises:
        ConfigError: unusable bins.
        SimulationError: a subject's equations cannot be integrated.
    """
    bin_of = _bins(data.times, bins)
    used = np.unique(bin_of)
    members = [np.flatnonzero(bin_of == b) for b in used]
    scale = _correction(model, data, members) if corrected else np.ones(len(data.times))

    limit = np.full(len(model.residuals), -np.inf)  # of quantification: values below are shown at it
    np.maximum.at(limit, data.endpoint[data.censored], data.observed[data.censored])

    def percentiles(outcomes: FloatArray) -> FloatArray:
        shown = np.maximum(outcomes, limit[data.endpoint]) * scale
        return np.stack([np.percentile(shown[rows], PERCENTILES) for rows in members])

    simulated = np.stack([percentiles(one) for one in replicates(model, data, n, seed=seed)])
    low, middle, high = np.percentile(simulated, (BAND[0], 50.0, BAND[1]), axis=0)
    return PredictiveCheck(
        time=np.array([np.median(data.times[rows]) for rows in members]),
        count=np.array([len(rows) for rows in members]),
        percentiles=PERCENTILES,
        observed=percentiles(data.observed),
        low=low,
        middle=middle,
        high=high,
        corrected=corrected,
        times=data.times,
        outcomes=data.observed * scale,
    )


def _bins(times: FloatArray, bins: int | ArrayLike | None) -> NDArray[np.int64]:
    """The bin of every time."""
    distinct = np.unique(times)
    if bins is None and len(distinct) <= 2 * MOST_BINS:
        return np.searchsorted(distinct, times)
    if bins is None or np.ndim(bins) == 0:
        number = MOST_BINS if bins is None else int(np.asarray(bins))
        if number < 1:
            raise ConfigError("unusable bins of a predictive check", expected="a number from 1 on", got=bins)
        edges = np.unique(np.quantile(times, np.linspace(0, 1, number + 1)[1:-1]))
    else:
        edges = np.asarray(bins, dtype=np.float64)
        if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError("unusable bins of a predictive check", expected="ascending edges", got=bins)
    return np.searchsorted(edges, times, side="right")


def _correction(model: PopulationModel, data: PopulationData, members: list[NDArray[np.int64]]) -> FloatArray:
    """Factor of each outcome: the bin's median population prediction over its own."""
    pred = Objective(model, data).predict(
        PopulationParameters.of(model), np.zeros((len(data), model.n_random_effects))
    )[0]
    scale = np.ones(len(pred))
    for rows in members:
        own = pred[rows]
        scale[rows] = np.divide(np.median(own), own, out=np.ones(len(own)), where=own != 0)
    return scale
