"""The parameter table of a fit, as users of NONMEM and xpose know it: estimates on the scales where they make sense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.population_parameters import inverse_link, link

FloatArray = NDArray[np.float64]
Z95 = 1.959963984540054  # of N(0, 1): 95 % lie within ± this
SCALES = {"log-normal": "log", "logit-normal": "logit", "normal": "natural"}


@dataclass(frozen=True)
class ParameterRow:
    """One estimate. Fields that do not exist are None.

    ``kind``: typical, omega or residual. ``relative_error``: standard error in percent of the estimate. ``lower``,
    ``upper``: 95 % interval, made on ``scale`` (log, logit, correlation or natural), so that a variance never is
    negative. ``cv_percent``: of a variance of random effects, the coefficient of variation of the individual parameter
    (100 √(exp ω² - 1) for log-normal ones, 100 ω / |typical value| for normal ones). ``correlation``: of a covariance.
    ``sd``: of a variance, its square root.
    """

    name: str
    kind: str
    estimate: float
    standard_error: float | None = None
    relative_error: float | None = None
    lower: float | None = None
    upper: float | None = None
    scale: str = "natural"
    cv_percent: float | None = None
    correlation: float | None = None
    sd: float | None = None


@dataclass(frozen=True)
class EtaBar:
    """Mean of a random effect's empirical Bayes estimates, its standard error, p of N(0, 1) for "it is 0"."""

    mean: float
    standard_error: float
    p: float


@dataclass(frozen=True)
class FitStatistics:
    """Figures of a whole fit.

    ``objective`` is minus twice the log-likelihood without N·log 2π (N: observations with residual error, above a limit
    of quantification), ``with_constant`` with it; ``aic`` and ``bic`` are of the latter, with the number of
    ``parameters`` estimated and of ``observations``. ``eigenvalues`` (ascending) are of the estimates' correlations,
    the condition number is the largest over the smallest. ``eta_shrinkage`` is 1 - sd(η̂) / ω by random effect,
    ``epsilon_shrinkage`` 1 - sd(IWRES) by endpoint with residual error. ``correlations`` (m, m): of the estimates, NaN
    where they are not known.
    """

    objective: float
    with_constant: float
    aic: float
    bic: float
    parameters: int
    observations: int
    condition_number: float
    eigenvalues: tuple[float, ...]
    eta_shrinkage: dict[str, float]
    epsilon_shrinkage: dict[str, float]
    eta_bar: dict[str, EtaBar]
    correlations: FloatArray


def parameter_rows(fit: Fit) -> tuple[ParameterRow, ...]:
    """The rows of a fit's table, in the order of its names."""
    effects, omega = fit.model.random_effect_names, np.asarray(fit.model.omega)
    cells = {f"omega({effects[i]},{effects[j]})": (i, j) for i in range(len(effects)) for j in range(i + 1)}
    parameters = {own.name: own for own in fit.model.parameters}
    of_effect = [own for own in fit.model.parameters if own.random]
    place = {name: index for index, name in enumerate(fit.names)}
    covariance, quantile = covariance_for_intervals(fit)
    rows = []
    for index, name in enumerate(fit.names):
        value, error = float(fit.estimates[index]), float(fit.standard_errors[index])
        scale, cv, correlation, sd = "natural", None, None, None
        if name in cells:
            i, j = cells[name]
            kind = "omega"
            if i == j:
                scale, sd, own = "log", float(np.sqrt(value)), of_effect[i]
                if own.distribution == "log-normal":
                    cv = 100.0 * float(np.sqrt(np.expm1(value))) if value < 700.0 else None
                elif own.distribution == "normal" and own.typical != 0.0:
                    cv = 100.0 * sd / abs(own.typical)
            else:
                scale = "correlation"
                correlation = float(value / np.sqrt(omega[i, i] * omega[j, j]))
        elif name in parameters:
            kind, scale = "typical", SCALES[parameters[name].distribution]
        else:
            kind = "residual"
            if not name.startswith("power"):
                scale, sd = "log", float(np.sqrt(value))
        row = ParameterRow(name, kind, value, scale=scale, cv_percent=cv, correlation=correlation, sd=sd)
        if np.isfinite(error):
            if scale == "correlation":
                low, high = _covariance_interval(fit, place, cells[name], effects, omega)
            else:
                low, high = _interval(value, float(np.sqrt(covariance[index, index])), scale, quantile)
            relative = 100.0 * error / abs(value) if value else None
            row = ParameterRow(
                name, kind, value, error, relative, low, high, scale, cv_percent=cv, correlation=correlation, sd=sd
            )
        rows.append(row)
    return tuple(rows)


def covariance_for_intervals(fit: Fit) -> tuple[FloatArray, float]:
    """The covariance (m, m) of the estimates that intervals are made from, and their half width in its errors.

    A sandwich of few subjects is corrected for them (:func:`.uncertainty.corrected_score`), with the quantile of t with
    one degree of freedom less than there are subjects, as for any variance between subjects.
    """
    if fit.interval_covariance is None:
        return fit.covariance, Z95
    return fit.interval_covariance, float(stdtrit(max(1, len(fit.eta) - 1), 0.975))


def _interval(value: float, error: float, scale: str, quantile: float) -> tuple[float, float]:
    """95 % interval made on a scale, back on the natural one."""
    distribution = {"log": "log-normal", "logit": "logit-normal"}.get(scale, "normal")
    slope = {"log": value, "logit": value * (1.0 - value)}.get(scale, 1.0)
    centre, half = float(link(distribution, value)), quantile * error / slope
    low, high = inverse_link(distribution, np.array([centre - half, centre + half]))
    return float(low), float(high)


def _covariance_interval(
    fit: Fit, place: dict[str, int], cell: tuple[int, int], effects: tuple[str, ...], omega: FloatArray
) -> tuple[float, float]:
    """Interval of a covariance: Fisher's z of its correlation, times the standard deviations."""
    i, j = cell
    size = float(np.sqrt(omega[i, i] * omega[j, j]))
    r = omega[i, j] / size
    # derivatives of r by the covariance and, where they were estimated, the two variances
    slopes = {f"omega({effects[i]},{effects[j]})": 1.0 / size}
    slopes |= {f"omega({effects[k]},{effects[k]})": -0.5 * r / omega[k, k] for k in (i, j)}
    known = [name for name in slopes if name in place and np.isfinite(fit.standard_errors[place[name]])]
    positions, weights = [place[name] for name in known], np.array([slopes[name] for name in known])
    covariance, quantile = covariance_for_intervals(fit)
    variance = float(weights @ covariance[np.ix_(positions, positions)] @ weights)
    half = quantile * np.sqrt(max(variance, 0.0)) / max(1.0 - r * r, 1e-12)
    low, high = np.tanh(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) + np.array([-half, half])) * size
    return float(low), float(high)


def fit_statistics(fit: Fit, data: PopulationData, iwres: FloatArray) -> FitStatistics:
    """Figures of a fit; ``iwres`` (N,): individual weighted residuals, NaN in censored rows."""
    observations, parameters = len(data.times), len(fit.names)
    normal = ~data.censored & fit.model.has_residual_error(data.endpoint)
    with_constant = fit.objective + float(np.log(2.0 * np.pi)) * int(normal.sum())
    known = np.isfinite(np.diag(fit.covariance)) if parameters else np.zeros(0, dtype=bool)
    correlations = np.full((parameters, parameters), np.nan)
    own = fit.covariance[np.ix_(known, known)]
    correlations[np.ix_(known, known)] = own / np.sqrt(np.outer(np.diag(own), np.diag(own)))
    values = correlations[np.ix_(known, known)]
    exists = values.size > 0 and bool(np.isfinite(values).all())
    effects, n = fit.model.random_effect_names, len(fit.eta)
    spread = fit.eta.std(axis=0, ddof=1) if n > 1 else np.full(len(effects), np.nan)
    bars = {}
    for k, name in enumerate(effects):
        mean, error = float(fit.eta[:, k].mean()), float(spread[k] / np.sqrt(n))
        bars[name] = EtaBar(mean, error, float(2.0 * ndtr(-abs(mean) / error)) if error > 0 else float("nan"))
    epsilon = {}
    for index, endpoint in enumerate(fit.model.structural.endpoints):
        if fit.model.residuals[index].kind == "likelihood":
            continue
        seen = iwres[(data.endpoint == index) & np.isfinite(iwres)]
        epsilon[endpoint] = 1.0 - float(seen.std(ddof=1)) if len(seen) > 1 else float("nan")
    return FitStatistics(
        objective=fit.objective,
        with_constant=with_constant,
        aic=with_constant + 2.0 * parameters,
        bic=with_constant + float(np.log(observations)) * parameters,
        parameters=parameters,
        observations=observations,
        condition_number=fit.condition_number,
        eigenvalues=tuple(np.linalg.eigvalsh(values).tolist()) if exists else (),
        eta_shrinkage=dict(zip(effects, fit.shrinkage.tolist(), strict=True)),
        epsilon_shrinkage=epsilon,
        eta_bar=bars,
        correlations=correlations,
    )
