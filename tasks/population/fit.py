"""Population models on tables: simulate one, fit one, and report on the fit."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.dataset as pads
from prefect import task
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict, Field

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.core.progress import Throttle
from image_longitudinal.models.nlme.data.dosing import Dose
from image_longitudinal.models.nlme.data.observations import open_observations, population_data, subject_tables
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.data.visits import Visits
from image_longitudinal.models.nlme.diagnostics.residuals import residuals
from image_longitudinal.models.nlme.estimation.ebe_streaming import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import Fit, fit
from image_longitudinal.models.nlme.estimation.importance_sampling import maximum_likelihood
from image_longitudinal.models.nlme.estimation.results import save_fit
from image_longitudinal.models.nlme.library import get_model, load_models, model_content
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.trial import simulate_table
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.engine.progress import Progress

FIT_VERSION = 1  # raise it whenever the same table and options would give another fit
RESULTS, EBES, SUMMARY = "fit.nc", "ebes.parquet", "fit.json"
METHODS = {"fo": "FO", "foce": "FOCE", "focei": "FOCEI", "laplace": "Laplace", "imp": "FOCEI"}
LOG_SECONDS = 5.0
Method = Literal["fo", "foce", "focei", "laplace", "imp", "nuts"]


class FitSpec(BaseModel):
    """Everything that decides a fit.

    ``table`` is a CSV or Parquet file, or the address of a published data set (then ``level`` and ``split`` choose).
    ``start`` holds start values over the model's own: parameters by name, ``omega`` (every variance, covariances 0),
    ``additive`` and ``proportional`` (residual standard deviations).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    table: str
    model: str
    model_file: str | None = None
    method: Method = "focei"
    level: float | None = None
    split: str | None = None
    subjects: int | None = Field(None, ge=1, description="Fit only the first so many; estimates are made for all.")
    omega: Literal["full", "diagonal"] = "full"
    fixed: tuple[str, ...] = ()
    covariance: Literal["sandwich", "hessian", "gradient", "none"] = "sandwich"
    start: dict[str, float] = {}
    draws: int = Field(300, ge=50, description="Per subject for imp; per chain for nuts, after as many to tune.")
    seed: int = Field(1, ge=0)

    @property
    def model_content(self) -> str:
        """What decides the model: its name, or the content of the user's file."""
        return model_content(f"{self.model_file}:{self.model}" if self.model_file else self.model)


def named_model(name: str, file: str | None, start: dict[str, float]) -> PopulationModel:
    """A library model, or one of a user's file, with start values over its own; ConfigError for an unknown name."""
    if file is not None:
        load_models(file)
    model = get_model(name)
    known = {*model.parameter_names, "omega", "additive", "proportional"}
    if unknown := sorted(set(start) - known):
        raise ConfigError("unknown start value", expected=f"one of {', '.join(sorted(known))}", got=", ".join(unknown))
    parameters = tuple(replace(p, typical=start.get(p.name, p.typical)) for p in model.parameters)
    omega = model.omega
    if "omega" in start:
        k = model.n_random_effects
        omega = tuple(tuple(start["omega"] if i == j else 0.0 for j in range(k)) for i in range(k))
    for name, used in (("additive", model.residual.uses_additive), ("proportional", model.residual.uses_proportional)):
        if name in start and not used:
            raise ConfigError(f"the {model.residual.kind} residual error of model {model.name!r} has no {name} part")
    errors: dict[str, Any] = {name: start[name] for name in ("additive", "proportional") if name in start}
    return replace(model, parameters=parameters, omega=omega, residual=replace(model.residual, **errors))


def observations_of(spec: FitSpec) -> tuple[pads.Dataset, str]:
    """The table of a fit, not yet read, and the digest that names its content.

    Raises:
        ConfigError: a level that is missing or not there, or given for a file.
        StorageError: an address at which there is no data set.
    """
    if Path(spec.table).suffix in (".csv", ".parquet"):
        if spec.level is not None or spec.split is not None:
            raise ConfigError("a level and a split are of published data sets", got=spec.table)
        return open_observations(spec.table), file_sha256(spec.table)
    dataset = open_dataset(spec.table)
    if spec.level not in dataset.levels:
        levels = ", ".join(map(str, dataset.levels))
        raise ConfigError(
            "which association level is to be fitted?", expected=f"one of {levels}", got=spec.level or "none"
        )
    return dataset.scan("observations", spec.level, spec.split), dataset.manifest.identity


def population_of(spec: FitSpec, model: PopulationModel) -> PopulationData:
    """The subjects that are fitted, in memory."""
    table = observations_of(spec)[0]
    rows = next(subject_tables(table, spec.subjects or 1 << 60), None)
    if rows is None:
        raise ConfigError("a table of observations has no rows", where=spec.table)
    return population_data(model.structural, rows)


@task(name="simulate-table", task_run_name="simulate {output}")
def simulate(
    output: str, model: PopulationModel, n: int, seed: int, times: tuple[float, ...] | None,
    doses: tuple[Dose, ...] | None, visits: Visits | None, covariates: dict[str, tuple[float, float]],
    truth: str | None, workers: int,
) -> str:  # fmt: skip
    """Write a simulated table; see :func:`models.nlme.simulation.trial.simulate_table`."""
    progress = Progress("simulate", n, "subjects")
    path = simulate_table(
        model, output, n, seed=seed, times=times, doses=doses, visits=visits, covariates=covariates, truth=truth,
        workers=workers, progress=progress.update,
    )  # fmt: skip
    return str(path)


@task(name="fit-population", task_run_name="fit {spec.model} by {spec.method}")
def fit_population(spec: FitSpec, output: str, workers: int) -> dict[str, Any]:
    """Fit, and write results, estimates of every subject and a summary into the folder; what is there is kept.

    Returns:
        The content of fit.json.
    """
    folder, logger = Path(output), get_run_logger()
    table, content = observations_of(spec)
    key = digest_of("fit-population", FIT_VERSION, spec.model_dump(exclude={"table"}), content, spec.model_content)
    done = read_summary(folder)
    if done is not None and done["key"] == key and (folder / RESULTS).exists():
        logger.info("this fit is there already: nothing to do")
        return done
    folder.mkdir(parents=True, exist_ok=True)
    model = named_model(spec.model, spec.model_file, spec.start)
    data = population_of(spec, model)
    logger.info(f"{len(data):,} subjects, {len(data.times):,} observations; {spec.method} from {model.typical_values}")
    found = run_fit(spec, model, data, workers, FitProgress(logger))
    predictions = vars(residuals(found.model, data, found.eta))
    save_fit(found, folder / RESULTS, data, predictions)
    ebes = stream_ebes(found.model, table, folder / EBES, workers=workers)
    summary = {"key": key, **summary_of(found, spec), "subjects": ebes.subjects, "observations": len(data.times)}
    summary["subjects_fitted"], summary["searches_not_converged"] = len(data), ebes.not_converged
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def run_fit(
    spec: FitSpec, model: PopulationModel, data: PopulationData, workers: int, progress: FitProgress | None = None
) -> Fit:
    """The fit that a specification asks for."""
    imp = spec.method == "imp"
    found = fit(
        model,
        data,
        METHODS[spec.method],
        omega=spec.omega,
        fixed=spec.fixed,
        covariance="none" if imp else spec.covariance,
        workers=workers,
        progress=progress,
    )
    if imp:
        covariance = "gradient" if spec.covariance == "sandwich" else spec.covariance
        found = maximum_likelihood(
            found, data, omega=spec.omega, fixed=spec.fixed, draws=spec.draws, seed=spec.seed, covariance=covariance,
            workers=workers, progress=progress,
        )  # fmt: skip
    return found


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The fit.json of a finished fit, or None."""
    try:
        content = json.loads((folder / SUMMARY).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) and "key" in content else None


def summary_of(found: Fit, spec: FitSpec) -> dict[str, Any]:
    """What a program wants to know of a fit, as JSON can hold it (null for what does not exist)."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "model": spec.model,
        "method": found.method,
        "converged": found.converged,
        "message": found.message,
        "objective": found.objective,
        "condition_number": number(found.condition_number),
        "estimates": {
            name: {"estimate": number(value), "standard_error": number(error)}
            for name, (value, error) in found.table.items()
        },
        "shrinkage": dict(
            zip(found.model.random_effect_names, [number(share) for share in found.shrinkage], strict=True)
        ),
        "evaluations": found.evaluations,
    }


class FitProgress:
    """Logs how a fit comes along: evaluation and objective, every few seconds."""

    def __init__(self, logger: Any) -> None:
        self.logger, self.began, self.throttle = logger, time.monotonic(), Throttle(LOG_SECONDS)

    def __call__(self, evaluation: int, objective: float) -> None:
        """Called by the fit after each evaluation."""
        if self.throttle.ready(always=evaluation == 1):
            seconds = time.monotonic() - self.began
            self.logger.info(f"evaluation {evaluation}, {seconds:.0f} s: objective {objective:.3f}")
