"""Covariates: values made from standard normals, and what they do to individual parameters.

A continuous covariate is mean + sd·x, or mean·exp(sd·x) if log-normal; a binary or categorical one is the number of
thresholds that x exceeds, set so that its values have the designed shares. Its level is that of x.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from image_longitudinal.core.study_config import Covariate
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholded:
    """How strongly a number made of thresholds follows its normal: with correlation ρ of x, the number has factor·ρ."""

    thresholds: tuple[float, ...]
    factor: float


def thresholds(shares: Iterable[float]) -> Thresholded:
    """Thresholds of categories 0, 1, ... with these shares."""
    parts = np.array(list(shares))
    cuts = ndtri(np.clip(np.cumsum(parts)[:-1], 0, 1))
    number = np.arange(len(parts))
    spread = np.sqrt(parts @ number**2 - (parts @ number) ** 2)
    density = np.exp(-0.5 * cuts**2) / np.sqrt(2 * np.pi)
    return Thresholded(tuple(float(cut) for cut in cuts), float(density.sum() / spread))


def covariate_values(covariate: Covariate, normal: FloatArray, cuts: tuple[float, ...] | None = None) -> FloatArray:
    """Values (n,) of a covariate from its variable x (n,); ``cuts``: thresholds, if x is not normal."""
    if covariate.kind == "continuous":
        if covariate.log:
            return np.asarray(covariate.mean * np.exp(covariate.sd * normal))
        return np.asarray(covariate.mean + covariate.sd * normal)
    between = thresholds(covariate.shares).thresholds if cuts is None else cuts
    return (normal[:, None] > np.array(between)).sum(1).astype(np.float64)


def adjust_parameters(
    model: PopulationModel, parameters: FloatArray, covariates: Iterable[Covariate], values: Mapping[str, FloatArray]
) -> FloatArray:
    """Individual parameters (n, p) with the effects of covariates whose ``values`` are (n,) by name."""
    out = parameters
    for covariate in covariates:
        for effect in covariate.effects:
            out = out.copy() if out is parameters else out
            column, value = model.parameter_names.index(effect.parameter), values[covariate.name]
            if effect.effect == "power":
                out[:, column] *= (value / effect.reference) ** effect.coefficient
            elif effect.effect == "exponential":
                out[:, column] *= np.exp(effect.coefficient * (value - effect.reference))
            else:
                out[:, column] += effect.coefficient * (value - effect.reference)
    return out
