"""Fits of population models to tables."""

import time
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.progress import Step, Throttle, report
from image_longitudinal.models.nlme.data.nmtran_writer import write_rows
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import residuals
from image_longitudinal.models.nlme.diagnostics.sdtab import sdtab
from image_longitudinal.models.nlme.estimation.ebes import stream_ebes
from image_longitudinal.models.nlme.estimation.fit import (
    CHECKED_IN_FIRST,
    SAMPLE,
    Evaluated,
    Fit,
    first_method,
    fit,
    spread,
)
from image_longitudinal.models.nlme.estimation.maximum_likelihood import maximum_likelihood
from image_longitudinal.models.nlme.estimation.parameter_table import fit_statistics, parameter_rows
from image_longitudinal.models.nlme.estimation.pareto import UNRELIABLE
from image_longitudinal.models.nlme.estimation.quadrature import quadrature_fit
from image_longitudinal.models.nlme.estimation.results import load_fit, save_fit
from image_longitudinal.models.nlme.estimation.saem import saem_fit
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.tasks.engine.progress import SHOWN, run_logger
from image_longitudinal.tasks.population.inputs import (
    model_to_fit,
    observations_of,
    population_of,
    spec_of,
    true_values,
)
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import (
    BOOTSTRAP,
    DRAWS,
    EBES,
    IMAGE_EFFECTS,
    IMAGE_PREDICTOR,
    NAME,
    REPORT,
    RESULTS,
    SIR,
    Figures,
    FitSummary,
    ParameterEstimate,
    SamplingSummary,
    finite,
    read_summary,
)

SDTAB = {kind: f"sdtab.{kind}" for kind in ("parquet", "csv")}
FILES = (
    NAME, RESULTS, EBES, DRAWS, REPORT, BOOTSTRAP, SIR, IMAGE_PREDICTOR, IMAGE_EFFECTS, *SDTAB.values(),
)  # fmt: skip
METHODS = {"fo": "FO", "foce": "FOCE", "focei": "FOCEI", "laplace": "Laplace"}


def finished_fit(options: FitOptions, folder: Path) -> FitSummary | None:
    """The summary of a fit that exists in a folder, if it is the fit of these options."""
    done = read_summary(folder)
    if done is None or not (folder / REPORT).exists():
        return None
    model = model_to_fit(options)
    return done if done.key == spec_of(options, observations_of(options, model)).digest else None


def fit_to_table(options: FitOptions, output: str, workers: int) -> FitSummary:
    """Fit, and write the results and fit.json, whose content is returned, into an existing folder.

    The results are fit.nc and the empirical Bayes estimates of every subject, or the draws of full Bayes.
    """
    folder, logger = Path(output), run_logger()
    model = model_to_fit(options)
    table = observations_of(options, model)
    for note in table.rows.notes:
        logger.warning(f"{options.table}: {note}")
    key, nuts = spec_of(options, table).digest, options.method == "nuts"
    data = population_of(options, table)
    size = f"{len(data):,} subjects, {len(data.times):,} observations"
    logger.info(f"{size}; {options.method} from {model.typical_values}")
    if nuts:
        from image_longitudinal.tasks.population.bayes import sample_to_folder  # here: PyMC is slow to import

        summary = sample_to_folder(options, model, data, folder, key)
        summary.write(folder)
        return summary
    began = time.monotonic()
    found = run_fit(options, model, data, workers, ObjectiveLog(logger))
    seconds, own = time.monotonic() - began, residuals(found.model, data, found.eta)
    save_fit(found, folder / RESULTS, data, vars(own))
    ebes = stream_ebes(found.model, table.rows, folder / EBES, n_threads=workers)
    summary = FitSummary(
        key=key,
        model=options.model,
        method=found.method,
        converged=found.converged,
        message=found.message,
        objective=found.objective,
        condition_number=finite(found.condition_number),
        estimates={row.name: ParameterEstimate.of(row) for row in parameter_rows(found)},
        shrinkage=dict(zip(found.model.random_effect_names, map(finite, found.shrinkage), strict=True)),
        evaluations=found.evaluations,
        subjects=ebes.subjects,
        observations=len(data.times),
        subjects_fitted=len(data),
        searches_not_converged=ebes.not_converged,
        figures=Figures.of(fit_statistics(found, data, own.iwres)),
        seconds=round(seconds, 2),
        truth={name: value for name, value in true_values(options).items() if name in found.table},
        sampling=sampling_of(found, data),
        content=table.content,
    )
    summary.write(folder)
    return summary


def write_sdtab(options: FitOptions, output: str) -> None:
    """Write the table by observation that the options ask for beside the results of their fit, unless it exists.

    Raises:
        ConfigError: draws of full Bayes, which have no single estimate of random effects.
    """
    if options.sdtab is None:
        return
    if options.method == "nuts":
        raise ConfigError("nuts has no sdtab", expected="a method with empirical Bayes estimates", got="nuts")
    path = Path(output, SDTAB[options.sdtab])
    if path.exists():
        return
    model = model_to_fit(options.model_copy(update={"start": {}}))
    data = population_of(options, observations_of(options, model))
    found = load_fit(Path(output, RESULTS), model)
    write_rows(path, [sdtab(found.model, data, found.eta, seed=options.seed)])


def run_fit(
    options: FitOptions, model: PopulationModel, data: PopulationData, workers: int, progress: Evaluated | None = None
) -> Fit:
    """The fit of given options."""
    shared: dict[str, Any] = {"omega": options.omega, "fixed": options.fixed, "n_threads": workers}
    shared["progress"] = progress
    if options.method in METHODS:
        return fit(model, data, METHODS[options.method], covariance=options.covariance, **shared)
    shared["covariance"] = options.covariance
    if options.method == "saem":
        return saem_fit(
            model, data, burn_in=options.burn_in, smoothing=options.smoothing, draws=options.draws, seed=options.seed,
            **shared,
        )  # fmt: skip
    if options.method == "agq" and options.order == 1:
        return quadrature_fit(model, data, order=1, **shared)
    # the linearised fit of some subjects is as good a start: both have rounds of their own with few subjects
    few = spread(data, SAMPLE // 4) if len(data) >= CHECKED_IN_FIRST * SAMPLE else data
    start = fit(model, few, first_method(model), **(shared | {"covariance": "none"}))
    if options.method == "agq":
        return quadrature_fit(model, data, order=options.order, start=start, **shared)
    return maximum_likelihood(start, data, draws=options.draws, seed=options.seed, **shared)


def sampling_of(found: Fit, data: PopulationData) -> SamplingSummary | None:
    """How well a likelihood by sampling is known; None for other methods."""
    own = found.sampling
    if own is None:
        return None
    return SamplingSummary(
        objective_error=finite(own.error),
        fewest_draws=int(own.draws.min()),
        most_draws=int(own.draws.max()),
        largest_pareto_k=finite(own.pareto_k.max()),
        unreliable=tuple(str(name) for name in data.names[own.pareto_k > UNRELIABLE]),
    )


class ObjectiveLog:
    """Reports every evaluation of a fit with its objective; logs one every five seconds."""

    def __init__(self, logger: Any) -> None:
        self.logger, self.began, self.throttle = logger, time.monotonic(), Throttle(5.0)

    def __call__(self, evaluation: int, objective: float) -> None:
        """Called by the fit after each evaluation."""
        text = f"evaluation {evaluation}, {time.monotonic() - self.began:.0f} s: objective {objective:.3f}"
        report(Step(text))
        if self.throttle.ready(always=evaluation == 1):
            self.logger.info(text, extra={SHOWN: True})
