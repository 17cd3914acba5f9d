"""Sixty subjects of an exponential decay in closed form, and their fit: quick, and far from any boundary."""

from functools import cache

import numpy as np

from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate

MODEL = PopulationModel(
    "decay",
    StructuralModel("decay", (), ("k", "a"), lambda t, x, p: {}, lambda t, x, p: p.a * s.exp(-p.k * t)),
    (Parameter("k", 0.3), Parameter("a", 10.0)),
    ((0.09, 0.0), (0.0, 0.09)),
    ResidualError("additive", additive=0.3),
    Design((0.5, 1.0, 2.0, 4.0, 8.0), ()),
)


@cache
def fitted() -> tuple[Fit, PopulationData]:
    """The fit by FOCEI with a diagonal Ω, and its data."""
    ids = np.arange(60)
    eta = 0.3 * normals(stream_key(1, "eta"), ids, 2)
    observed = observe(MODEL, simulate(MODEL, eta), key=stream_key(1, "residual"), ids=ids)
    data = PopulationData.of_design(MODEL.structural, observed, MODEL.design.times, [])
    return fit(MODEL, data, omega="diagonal"), data


def refit(model: PopulationModel, data: PopulationData, held: tuple[str, ...]) -> Fit:
    """As :func:`fitted`, without standard errors."""
    return fit(model, data, omega="diagonal", fixed=held, covariance="none")
