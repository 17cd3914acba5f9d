"""How observations of several endpoints scatter around predictions: standard deviations, gaps, draws, by row.

Predictions are arrays (..., N) in the order of the data's observations; every row has its endpoint's residual error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


def standard_deviations(model: PopulationModel, data: PopulationData, f: FloatArray) -> FloatArray:
    """Residual standard deviations at predictions (..., N); on the log scale for log-normal rows."""
    sd = np.empty_like(f)
    for endpoint, residual in enumerate(model.residuals):
        rows = data.endpoint == endpoint
        sd[..., rows] = residual.standard_deviation(f[..., rows])
    return sd


def logarithmic(model: PopulationModel, data: PopulationData) -> NDArray[np.bool_]:
    """Which rows scatter on the log scale, (N,)."""
    kinds = [residual.kind == "log-normal" for residual in model.residuals]
    return np.asarray(kinds)[data.endpoint]


def gaps(model: PopulationModel, data: PopulationData, f: FloatArray) -> FloatArray:
    """Observed minus predicted (..., N), of logarithms in log-normal rows."""
    out = data.observed - f
    rows = logarithmic(model, data)
    if rows.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            out[..., rows] = np.log(data.observed[rows] / f[..., rows])
    return out


def scattered(model: PopulationModel, data: PopulationData, f: FloatArray, noise: FloatArray) -> FloatArray:
    """Observations from predictions and standard normal draws, both (N,)."""
    out = np.empty_like(f)
    for endpoint, residual in enumerate(model.residuals):
        rows = data.endpoint == endpoint
        out[rows] = residual.scatter(f[rows], noise[rows])
    return out


def quantified(data: PopulationData) -> PopulationData:
    """The data without censored rows; subjects stay."""
    if not data.censored.any():
        return data
    kept = ~data.censored
    counts = np.bincount(data.subject_of_row[kept], minlength=len(data))
    names = ("times", "observed", "before", "endpoint", "censored")
    rows = {name: getattr(data, name)[kept] for name in names}
    return replace(data, row_start=np.concatenate([[0], np.cumsum(counts)]), **rows)
