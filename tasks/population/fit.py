"""Fits of population models to tables."""

import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.logging import get_run_logger

from image_longitudinal.core.files import make_folder
from image_longitudinal.core.progress import Throttle
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import residuals
from image_longitudinal.models.nlme.estimation.ebes import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import Evaluated, Fit, fit
from image_longitudinal.models.nlme.estimation.importance_sampling import maximum_likelihood
from image_longitudinal.models.nlme.estimation.results import save_fit
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.tasks.population.inputs import named_model, observations_of, population_of, spec_of
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import (
    DRAWS,
    RESULTS,
    FitSummary,
    ParameterEstimate,
    finite,
    read_summary,
)

METHODS = {"fo": "FO", "foce": "FOCE", "focei": "FOCEI", "laplace": "Laplace", "imp": "FOCEI"}


@task(name="fit-population", task_run_name="fit {options.model} by {options.method}")
def fit_to_table(options: FitOptions, output: str, workers: int) -> FitSummary:
    """Fit, and write the results and fit.json, whose content is returned; an equal fit is kept.

    The results are fit.nc and the empirical Bayes estimates of every subject, or the draws of full Bayes.
    """
    folder, logger = Path(output), get_run_logger()
    table = observations_of(options)
    key, done = spec_of(options, table).digest, read_summary(folder)
    nuts = options.method == "nuts"
    if done is not None and done.key == key and (folder / (DRAWS if nuts else RESULTS)).exists():
        logger.info("cache hit: this fit exists")
        return done
    model = named_model(options.model, options.model_file, options.start)
    data = population_of(options, model, table)
    make_folder(folder)
    size = f"{len(data):,} subjects, {len(data.times):,} observations"
    logger.info(f"{size}; {options.method} from {model.typical_values}")
    if nuts:
        from image_longitudinal.tasks.population.bayes import sample_to_folder  # here: PyMC is slow to import

        summary = sample_to_folder(options, model, data, folder, key)
        summary.write(folder)
        return summary
    found = run_fit(options, model, data, workers, ObjectiveLog(logger))
    save_fit(found, folder / RESULTS, data, vars(residuals(found.model, data, found.eta)))
    target = folder / "ebes.parquet"
    ebes = stream_ebes(found.model, table.rows, target, interpolation=options.covariates, n_threads=workers)
    summary = FitSummary(
        key=key,
        model=options.model,
        method=found.method,
        converged=found.converged,
        message=found.message,
        objective=found.objective,
        condition_number=finite(found.condition_number),
        estimates={
            name: ParameterEstimate(estimate=finite(value), standard_error=finite(error))
            for name, (value, error) in found.table.items()
        },
        shrinkage=dict(zip(found.model.random_effect_names, map(finite, found.shrinkage), strict=True)),
        evaluations=found.evaluations,
        subjects=ebes.subjects,
        observations=len(data.times),
        subjects_fitted=len(data),
        searches_not_converged=ebes.not_converged,
    )
    summary.write(folder)
    return summary


def run_fit(
    options: FitOptions, model: PopulationModel, data: PopulationData, workers: int, progress: Evaluated | None = None
) -> Fit:
    """The fit of given options."""
    imp = options.method == "imp"
    shared: dict[str, Any] = {"omega": options.omega, "fixed": options.fixed, "n_threads": workers}
    shared["progress"] = progress
    found = fit(model, data, METHODS[options.method], covariance="none" if imp else options.covariance, **shared)
    if imp:
        covariance = "gradient" if options.covariance == "sandwich" else options.covariance
        found = maximum_likelihood(found, data, draws=options.draws, seed=options.seed, covariance=covariance, **shared)
    return found


class ObjectiveLog:
    """Logs evaluation and objective of a fit every five seconds."""

    def __init__(self, logger: Any) -> None:
        self.logger, self.began, self.throttle = logger, time.monotonic(), Throttle(5.0)

    def __call__(self, evaluation: int, objective: float) -> None:
        """Called by the fit after each evaluation."""
        if self.throttle.ready(always=evaluation == 1):
            seconds = time.monotonic() - self.began
            self.logger.info(f"evaluation {evaluation}, {seconds:.0f} s: objective {objective:.3f}")
