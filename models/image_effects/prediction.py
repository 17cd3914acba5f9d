"""Random effects and parameters of subjects: by the image alone, and by the image with first visits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.image_effects.evidence import By, evidence
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters, inverse_link
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EffectPredictions:
    """Of n subjects: mean ``eta`` and standard deviation ``sd`` (n, k); ``parameters`` (n, p) at the mean."""

    eta: FloatArray
    sd: FloatArray
    parameters: FloatArray


def by_prior(model: PopulationModel, mean: FloatArray, omega: FloatArray) -> EffectPredictions:
    """Without outcomes: N(``mean`` (n, k), Ω); by the image with g and Ω_r, by nothing with 0 and Ω."""
    return _predictions(model, mean, np.tile(np.sqrt(np.diag(omega)), (len(mean), 1)))


def with_visits(
    model: PopulationModel, data: PopulationData, mean: FloatArray, omega: FloatArray, *, by: By = "focei",
    workers: int = 1,
) -> EffectPredictions:  # fmt: skip
    """With the outcomes of ``data`` under the prior N(``mean`` (n, k), Ω).

    Args:
        model: as fitted.
        data: visits of the n subjects.
        mean: g of each; 0 for predictions without images, with Ω of the population.
        omega: Ω_r, (k, k).
        by: as in :func:`.evidence.evidence`.
        workers: threads; the result does not depend on it.
    """
    known = evidence(model, data, mean, omega, by=by, workers=workers)
    center, covariance = known.posterior(mean, omega)
    return _predictions(model, center, np.sqrt(np.einsum("naa->na", covariance)))


def _predictions(model: PopulationModel, eta: FloatArray, sd: FloatArray) -> EffectPredictions:
    phi = np.tile(PopulationParameters.of(model).mu, (len(eta), 1))
    phi[:, [i for i, own in enumerate(model.parameters) if own.random]] += eta
    columns = [inverse_link(own.distribution, phi[:, i]) for i, own in enumerate(model.parameters)]
    return EffectPredictions(eta, sd, np.stack(columns, axis=1))
