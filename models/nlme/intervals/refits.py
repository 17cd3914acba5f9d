"""A fit repeated with other data, or with a value held: what bootstrap, profiles and a covariate search are made of."""

from collections.abc import Callable

import numpy as np

from image_longitudinal.core.errors import ImageLongitudinalError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.model.population import PopulationModel

# Fits a model, whose values are the start, to data on one thread. The names are of values to hold at their start, as in
# models.nlme.estimation.coordinates, besides those that the first fit held. No covariance is needed.
Refit = Callable[[PopulationModel, PopulationData, tuple[str, ...]], Fit]


def tried(refit: Refit, model: PopulationModel, data: PopulationData, held: tuple[str, ...] = ()) -> Fit | str:
    """The fit, or in one line why there is none. A fit that did not converge is a fit."""
    try:
        found = refit(model, data, held)
    except (ImageLongitudinalError, np.linalg.LinAlgError) as error:
        return f"no fit: {error}"
    if not (np.isfinite(found.objective) and np.isfinite(found.estimates).all()):
        return "no fit: objective or estimates are not finite"
    return found
