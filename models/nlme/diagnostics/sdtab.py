"""The table of a fit by observation that other diagnostics start from: NONMEM's and xpose's ``sdtab``."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import log_ndtr

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import decorrelated, equal_blocks, npde, residuals
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters

FloatArray = NDArray[np.float64]
REPLICATES = 300  # of NPDE, more if a subject has as many observations
STEP = 1e-6  # relative, of predictions: differences of the residual standard deviation


def sdtab(model: PopulationModel, data: PopulationData, eta: FloatArray, *, seed: int = 1) -> pa.Table:
    """One row per observation, in the order of the data.

    Columns: ID, TIME, DVID (1, 2, ...), CENS, DV (the limit of quantification where CENS is 1), PRED, IPRED, CWRES,
    IWRES, WRES, NPDE (missing where CENS is 1, and all but IWRES of an endpoint with a likelihood), each individual
    parameter, each random effect's empirical Bayes estimate (``eta_cl``) and its standard deviation (``sd_eta_cl``,
    from the curvature of the individual posterior at its mode). PRED, IPRED and the residuals are as in
    :func:`models.nlme.diagnostics.residuals.residuals`.

    Args:
        model: the fitted model.
        data: what it was fitted to.
        eta: empirical Bayes estimates, (n, k).
        seed: of NPDE.

    Raises:
        SimulationError: a subject's equations cannot be integrated.
    """
    own, subject = residuals(model, data, eta), data.subject_of_row
    most = int(np.diff(data.row_start).max(initial=0))
    columns = {
        "ID": data.names[subject],
        "TIME": data.times,
        "DVID": data.endpoint + 1,
        "CENS": data.censored.astype(np.int8),
        "DV": data.observed,
        "PRED": own.pred,
        "IPRED": own.ipred,
        "CWRES": own.cwres,
        "IWRES": own.iwres,
        "WRES": weighted_residuals(model, data),
        "NPDE": npde(model, data, n=max(REPLICATES, most + 2), seed=seed),
    }
    parameters = individual_parameters(model, eta)
    columns |= {name: parameters[subject, j] for j, name in enumerate(model.parameter_names)}
    spread = posterior_deviations(model, data, eta)
    for j, name in enumerate(model.random_effect_names):
        columns |= {name: eta[subject, j], f"sd_{name}": spread[subject, j]}
    return pa.table({name: pa.array(values, from_pandas=values.dtype.kind == "f") for name, values in columns.items()})


def weighted_residuals(model: PopulationModel, data: PopulationData) -> FloatArray:
    """WRES: residuals of the model linearised at η = 0, decorrelated within subjects, (N,).

    NaN in rows that are censored or of an endpoint with a likelihood.

    With log-normal residual error on the log scale. SimulationError: a subject's equations cannot be integrated.
    """
    values = PopulationParameters.of(model)
    pred, slope = Objective(model, data).predict(values, np.zeros((len(data), model.n_random_effects)))
    sd, rows = model.standard_deviation(pred, data.endpoint), model.logarithmic(data.endpoint)
    slope[rows] /= pred[rows, None]
    gap = data.observed - pred
    with np.errstate(divide="ignore", invalid="ignore"):
        gap[rows] = np.log(data.observed[rows] / pred[rows])
    normal = model.has_residual_error(data.endpoint) & ~data.censored
    out, seen = np.full(len(pred), np.nan), np.flatnonzero(normal)
    for block in equal_blocks(data.with_rows(normal)):
        own = seen[block]
        g = slope[own]
        covariance = g @ values.omega @ g.transpose(0, 2, 1) + np.eye(own.shape[1]) * sd[own][:, None, :] ** 2
        out[own] = decorrelated(covariance, gap[own])
    return out


def posterior_deviations(model: PopulationModel, data: PopulationData, eta: FloatArray) -> FloatArray:
    """Standard deviations of each subject's random effects given its data, (n, k): those of a Gaussian at the mode.

    Its precision is Ω⁻¹ plus the expected curvature of the observations: G Gᵀ / R + ½ R' R'ᵀ / R² of each, and of a
    censored one that of log Φ; with a likelihood it is the curvature of the posterior itself.
    """
    if model.structural.likelihood is not None:
        objective = Objective(model, data)
        objective.eta[:] = eta
        covariance = objective.posterior_covariance(PopulationParameters.of(model))
        return np.asarray(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))
    values = PopulationParameters.of(model)
    f, slope = Objective(model, data).predict(values, eta)
    rows = model.logarithmic(data.endpoint)
    sd = model.standard_deviation(f, data.endpoint)
    step = STEP * np.maximum(np.abs(f), STEP)
    sd_by = (model.standard_deviation(f + step, data.endpoint) - sd) / step
    slope[rows] /= f[rows, None]
    weight = 1.0 / sd**2 + 2.0 * (sd_by / sd) ** 2
    low = data.censored
    if low.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.where(rows, np.log(data.observed / f), data.observed - f)[low]
        z, scale = gap / sd[low], sd[low]
        hazard = np.exp(-0.5 * z**2 - 0.5 * np.log(2.0 * np.pi) - log_ndtr(z))
        weight[low] = hazard * (hazard + z) * ((1.0 + z * sd_by[low]) / scale) ** 2
    per_row = weight[:, None, None] * slope[:, :, None] * slope[:, None, :]
    precision = np.tile(np.linalg.inv(values.omega), (len(data), 1, 1))
    np.add.at(precision, data.subject_of_row, per_row)
    return np.asarray(np.sqrt(np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2)))
