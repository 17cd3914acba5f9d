"""Fits as ArviZ InferenceData in files that are read back exactly, and warnings about a fit.

A file ending in ``.nc`` is netCDF (HDF5), one ending in ``.zarr`` a Zarr group. Neither holds code or timestamps: a
model is stored by name and values, and its equations are looked up in the library when the file is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import move_into_place, replacing, temporary_folder
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit, Sampling
from image_longitudinal.models.nlme.estimation.pareto import UNRELIABLE
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError

if TYPE_CHECKING:
    import arviz as az

FloatArray = NDArray[np.float64]
ILL_CONDITIONED = 1000.0  # condition number of the estimates' correlation above which they are hardly identifiable


def inference_data(
    fit: Fit, data: PopulationData | None = None, predictions: Mapping[str, FloatArray] | None = None
) -> az.InferenceData:
    """A fit as InferenceData.

    Groups: ``estimates`` (estimate, standard_error, covariance, interval_covariance by quantity), ``population``
    (typical values, omega, residual error), ``random_effects`` (eta, shrinkage and each subject's objective and
    convergence), ``fit_statistics``, and with data ``observed_data``, ``constant_data`` and ``predictions``.

    Args:
        predictions: arrays (N,) by name, e.g. ``vars(residuals(...))``.
    """
    import arviz as az

    effects, quantities = list(fit.model.random_effect_names), list(fit.names)
    parameters, values = fit.model.parameters, PopulationParameters.of(fit.model)
    endpoints = ["", *(f"({name})" for name in fit.model.structural.endpoints[1:])]
    estimates = {
        "estimate": ("quantity", fit.estimates),
        "standard_error": ("quantity", fit.standard_errors),
        "covariance": (("quantity", "quantity_other"), fit.covariance),
    }
    if fit.interval_covariance is not None:
        estimates["interval_covariance"] = (("quantity", "quantity_other"), fit.interval_covariance)
    population = {
        "typical": ("parameter", [p.typical for p in parameters]),
        "distribution": ("parameter", [p.distribution for p in parameters]),
        "random": ("parameter", np.array([p.random for p in parameters], dtype=np.int8)),
        "omega": (("random_effect", "random_effect_other"), values.omega),
        "error": ("error_part", values.error),
    }
    names = {
        "parameter": [p.name for p in parameters],
        "random_effect": effects,
        "random_effect_other": effects,
        "error_part": [f"{part}{of}" for of in endpoints for part in ("additive", "proportional", "power")],
    }
    random_effects = {
        "eta": (("subject", "random_effect"), fit.eta),
        "shrinkage": ("random_effect", fit.shrinkage),
        "objective": ("subject", fit.objectives),
        "converged": ("subject", fit.searches_converged.astype(np.int8)),
    }
    if fit.sampling is not None:
        for name in ("draws", "effective", "pareto_k"):
            random_effects[name] = ("subject", getattr(fit.sampling, name))
    subjects = {"subject": np.arange(len(fit.eta)) if data is None else data.names, "random_effect": effects}
    statistics = {
        "objective": fit.objective,
        "condition_number": fit.condition_number,
        "evaluations": fit.evaluations,
        "converged": np.int8(fit.converged),
    }
    if fit.sampling is not None:
        statistics["monte_carlo_error"] = fit.sampling.error
    attributes = {"residual": ",".join(own.kind for own in fit.model.residuals), "model": fit.model.name}
    groups = {
        "estimates": xr.Dataset(estimates, {"quantity": quantities, "quantity_other": quantities}),
        "population": xr.Dataset(population, names, attributes),
        "random_effects": xr.Dataset(random_effects, subjects),
        "fit_statistics": xr.Dataset(statistics, attrs={"method": fit.method, "message": fit.message}),
    }
    if data is not None:
        by_row: dict[str, Mapping[str, NDArray[Any]]] = {
            "observed_data": {"outcome": data.observed},
            "constant_data": {"time": data.times, "subject_of": data.names[data.subject_of_row]},
            "predictions": predictions or {},
        }
        rows = {"observation": np.arange(len(data.times))}
        for group, arrays in by_row.items():
            if arrays:
                content = {name: ("observation", array) for name, array in arrays.items()}
                groups[group] = xr.Dataset(content, rows)
    return az.InferenceData(**groups, warn_on_custom_groups=False)


def save_results(content: az.InferenceData, path: str | Path) -> Path:
    """Write InferenceData (a fit's, or draws of PyMC) to a ``.nc`` or ``.zarr`` file; it appears whole or not at all.

    The same content gives the same netCDF bytes: PyMC's creation times are removed.

    Raises:
        ConfigError: another ending, or no such folder.
    """
    target = Path(path)
    if target.suffix not in (".nc", ".zarr") or not target.parent.is_dir():
        raise ConfigError("cannot write results there", expected=".nc or .zarr in an existing folder", got=target)
    tree = content.to_datatree()  # ArviZ's own to_zarr does not support zarr 3
    for node in tree.subtree:
        node.attrs.pop("created_at", None)
    if target.suffix == ".nc":
        with replacing(target) as temporary:
            tree.to_netcdf(temporary, engine="h5netcdf")
    else:
        with temporary_folder(target) as temporary:
            tree.to_zarr(temporary, consolidated=False)
            shutil.rmtree(target, ignore_errors=True)
            move_into_place(temporary, target)
    return target


def load_results(path: str | Path) -> az.InferenceData:
    """A file of :func:`save_results`, read into memory; ConfigError if it does not exist."""
    import arviz as az

    source = Path(path)
    if not source.exists():
        raise ConfigError("no such results", got=source)
    options = {"engine": "zarr", "consolidated": False} if source.suffix == ".zarr" else {"engine": "h5netcdf"}
    with xr.open_datatree(source, **options) as tree:
        groups = {name: child.to_dataset() for name, child in tree.load().children.items()}
        return az.InferenceData(attrs=tree.attrs, **groups, warn_on_custom_groups=False)


def save_fit(
    fit: Fit, path: str | Path, data: PopulationData | None = None, predictions: Mapping[str, FloatArray] | None = None
) -> Path:
    """Save a fit, with data and predictions if given: :func:`inference_data`, then :func:`save_results`."""
    return save_results(inference_data(fit, data, predictions), path)


def load_fit(path: str | Path, model: PopulationModel | None = None) -> Fit:
    """Read a fit, equal to the saved one.

    Args:
        path: file of :func:`save_fit`.
        model: gives the equations; the library's model of the recorded name if None.

    Raises:
        ConfigError: the file does not exist, holds no fit, or one of a model with other parameters.
    """
    content = load_results(path)
    missing = {"estimates", "population", "random_effects", "fit_statistics"} - set(content.groups())
    if missing:
        raise ConfigError("this InferenceData holds no fit", expected="groups of a fit", got=f"no {sorted(missing)}")
    estimates, population = content["estimates"], content["population"]
    effects, statistics = content["random_effects"], content["fit_statistics"]
    base = get_model(population.attrs["model"]) if model is None else model
    names = population["parameter"].values.tolist()
    if list(base.parameter_names) != names:
        raise ConfigError("the fit is of a model with other parameters", expected=list(base.parameter_names), got=names)
    columns = (population[name].values.tolist() for name in ("typical", "distribution", "random"))
    parameters = tuple(
        replace(own, typical=typical, distribution=distribution, random=bool(random))
        for own, typical, distribution, random in zip(base.parameters, *columns, strict=True)
    )
    kinds, errors = population.attrs["residual"].split(","), population["error"].values.reshape(-1, 3).tolist()
    residuals = tuple(ResidualError(kind, *row) for kind, row in zip(kinds, errors, strict=True))
    omega = tuple(map(tuple, population["omega"].values.tolist()))
    return Fit(
        model=replace(base, parameters=parameters, omega=omega, residual=residuals[0], other_residuals=residuals[1:]),
        method=statistics.attrs["method"],
        objective=float(statistics["objective"]),
        objectives=effects["objective"].values,
        eta=effects["eta"].values,
        searches_converged=effects["converged"].values.astype(bool),
        names=tuple(estimates["quantity"].values.tolist()),
        estimates=estimates["estimate"].values,
        standard_errors=estimates["standard_error"].values,
        covariance=estimates["covariance"].values,
        condition_number=float(statistics["condition_number"]),
        shrinkage=effects["shrinkage"].values,
        converged=bool(statistics["converged"]),
        message=statistics.attrs["message"],
        evaluations=int(statistics["evaluations"]),
        sampling=_sampling(effects, statistics),
        interval_covariance=estimates["interval_covariance"].values if "interval_covariance" in estimates else None,
    )


def _sampling(effects: xr.Dataset, statistics: xr.Dataset) -> Sampling | None:
    """How well a likelihood by sampling is known, of a fit's groups; None for other methods."""
    if "monte_carlo_error" not in statistics:
        return None
    draws, effective, shapes = (effects[name].values for name in ("draws", "effective", "pareto_k"))
    return Sampling(draws, effective, shapes, float(statistics["monte_carlo_error"]))


def fit_warnings(fit: Fit) -> list[str]:
    """Problems of a fit that a reader of its estimates should know, one sentence each."""
    found = []
    if not fit.converged:
        found.append(f"The fit did not converge: {fit.message}.")
    lost = int((~fit.searches_converged).sum())
    if fit.sampling is not None:
        if lost:
            worst = float(fit.sampling.pareto_k.max())
            found.append(
                f"{lost} of {len(fit.eta)} subjects: the sampled likelihood is unreliable (Pareto k above "
                f"{UNRELIABLE}, largest {worst:.2f}, or fewer than 10 effective draws)."
            )
    elif lost:
        found.append(f"{lost} of {len(fit.eta)} subjects: the search for the random effects did not converge.")
    unknown = [name for name, error in zip(fit.names, fit.standard_errors, strict=True) if not np.isfinite(error)]
    if unknown:
        of = "any estimate" if len(unknown) == len(fit.names) else ", ".join(unknown)
        found.append(f"There is no standard error of {of}.")
    if fit.condition_number > ILL_CONDITIONED:
        found.append(f"The estimates are hardly identifiable: condition number {fit.condition_number:.3g}.")
    omega = np.asarray(fit.model.omega)
    scale = np.sqrt(np.diag(omega))
    if len(omega) and np.linalg.eigvalsh(omega / np.outer(scale, scale))[0] < 1e-3:
        found.append("Omega is close to singular: some random effects are nearly functions of the others.")
    for name, shrinkage in zip(fit.model.random_effect_names, fit.shrinkage, strict=True):
        if shrinkage > 0.3:
            mislead = "plots of its estimates mislead (Savic & Karlsson 2009)"
            found.append(f"Shrinkage of {name} is {shrinkage:.0%}: {mislead}.")
    return found
