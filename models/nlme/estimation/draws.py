"""Population models drawn from the estimated distribution of a fit's estimates."""

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates, central_differences
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
STEP = 1e-6  # of the differences that give the estimates' derivatives by the coordinates


def drawn_model(fit: Fit, seed: int) -> PopulationModel:
    """The fitted model at estimates drawn from their distribution: normal in the coordinates of the fit.

    In these (logarithms of variances and of log-normal parameters, the Cholesky factor of Ω) every draw is a possible
    model. Estimates without a standard error stay as they are.

    Args:
        fit: with a covariance of its estimates.
        seed: of the draw.

    Raises:
        ConfigError: the fit has no standard errors.
    """
    coordinates, psi, covariance, known = distribution_of(fit)
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    noise = normals(stream_key(seed, "parameter uncertainty"), np.zeros(1, dtype=np.int64), int(known.sum()))[0]
    psi[known] += factor @ noise
    return coordinates.unpack(psi).into(fit.model)


def distribution_of(fit: Fit) -> tuple[Coordinates, FloatArray, FloatArray, NDArray[np.bool_]]:
    """The estimates' distribution in the coordinates of a fit.

    Returns:
        The coordinates, ψ (m,) of the estimates, covariance (q, q) of those q of ψ whose estimates have a standard
        error, and which these are (m,).

    Raises:
        ConfigError: the fit has no standard errors.
    """
    known = np.isfinite(fit.standard_errors)
    if not known.any():
        raise ConfigError("the fit has no standard errors to draw from", do="fit again with a covariance")
    coordinates = coordinates_of(fit)
    psi = coordinates.pack(coordinates.start)
    jacobian = np.stack(central_differences(coordinates.natural, psi, STEP), axis=1) / (2 * STEP)
    inverse = np.linalg.inv(jacobian[np.ix_(known, known)])
    covariance = inverse @ fit.covariance[np.ix_(known, known)] @ inverse.T
    return coordinates, psi, 0.5 * (covariance + covariance.T), known


def coordinates_of(fit: Fit) -> Coordinates:
    """Those of the fit's estimates, from their names."""
    model, names = fit.model, set(fit.names)
    everything = Coordinates(model, "blocks", ())  # (covariances that were not estimated are 0, or Ω was held)
    held = [name for name in everything.names if name not in names]
    variances = [name for name in held if name.startswith("omega(")]
    if len(variances) == len(everything.cells):
        fixed = ["omega", *(name for name in held if name not in variances)]
    else:
        fixed = [name.removeprefix("omega(").split(",")[0] if name in variances else name for name in held]
    return Coordinates(model, "blocks", fixed)
