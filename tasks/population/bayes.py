"""Full Bayes on a table: draws by NUTS, and a report on them."""

from importlib import resources
from pathlib import Path
from typing import NamedTuple

import arviz as az
import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from prefect import task
from prefect.logging import get_run_logger

from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.bayes.posterior import SUMMARY, convergence_warnings, sample_posterior
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.plots import ACCENT, INK, SOFT
from image_longitudinal.models.nlme.estimation.results import load_results, save_results
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.population.inputs import named_model, observations_of, population_of, spec_of
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import FitSummary, ParameterEstimate, finite, read_summary
from image_longitudinal.tasks.reports.pictures import data_url, rendered

DRAWS, REPORT = "posterior.nc", "report.html"
CHAINS = 2


class PosteriorRow(NamedTuple):
    """Mean, standard deviation, 94 % interval, effective draws and R-hat of a quantity; None if undefined."""

    name: str
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    ess: float | None
    rhat: float | None


@task(name="sample-population", task_run_name="sample {options.model}")
def sample_population(options: FitOptions, output: str) -> FitSummary:
    """Draw from the posterior, and write draws and summary into the folder; equal draws are kept.

    Returns:
        The content of fit.json: posterior means and standard deviations in place of estimates.
    """
    folder, logger = Path(output), get_run_logger()
    table = observations_of(options)
    key, done = spec_of(options, table).digest, read_summary(folder)
    if done is not None and done.key == key and (folder / DRAWS).exists():
        logger.info("cache hit: these draws exist")
        return done
    model = named_model(options.model, options.model_file, options.start)
    data = population_of(options, model, table)
    folder.mkdir(parents=True, exist_ok=True)
    logger.info(
        f"{len(data):,} subjects, {len(data.times):,} observations; first a fit by FOCEI for the start of the chains, "
        "and compilation of the density"
    )
    started: list[Progress] = []  # at the first draw: fit and compilation do not count towards the rate

    def progress(done: int, total: int) -> None:
        if not started:
            started.append(Progress("sample", total, "draws", done))
        started[0].update(done)

    found = sample_posterior(
        model, data, draws=options.draws, tune=options.draws, chains=CHAINS, omega=options.omega, fixed=options.fixed,
        seed=options.seed, progress=progress,
    )  # fmt: skip
    save_results(found, folder / DRAWS)
    warned = convergence_warnings(found)
    summary = FitSummary(
        key=key,
        model=options.model,
        method="NUTS",
        converged=not warned,
        message=" ".join(warned) or "no warnings about convergence",
        estimates={
            row.name: ParameterEstimate(estimate=row.mean, standard_error=row.sd) for row in posterior_rows(found)
        },
        subjects=len(data),
        observations=len(data.times),
        subjects_fitted=len(data),
    )
    summary.write(folder)
    return summary


@task(name="report-draws", task_run_name="report on {options.model} by nuts")
def report_draws(options: FitOptions, output: str) -> str:
    """Write report.html beside the draws."""
    folder = Path(output)
    found, summary = load_results(folder / DRAWS), read_summary(folder)
    model = named_model(options.model, options.model_file, options.start)
    data = population_of(options, model, observations_of(options))
    assert summary is not None
    write_atomically(folder / REPORT, posterior_page(found, data, options, summary))
    return str(folder / REPORT)


def posterior_page(found: az.InferenceData, data: PopulationData, options: FitOptions, summary: FitSummary) -> str:
    """The page's HTML; the same draws give the same page."""
    text = resources.files("image_longitudinal.tasks.reports").joinpath("templates", "posterior.html").read_text()
    figures = {
        "traces": traces_figure(found),
        "prior": predictive_figure(found, data, "prior_predictive"),
        "posterior": predictive_figure(found, data, "posterior_predictive"),
    }
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template.render(
        options=options,
        summary=summary,
        warnings=convergence_warnings(found),
        rows=posterior_rows(found),
        chains=found["posterior"].sizes["chain"],
        draws=found["posterior"].sizes["draw"],
        pictures={name: data_url(rendered(figure)) for name, figure in figures.items()},
    )


def posterior_rows(found: az.InferenceData) -> list[PosteriorRow]:
    """A row for every population quantity."""
    names = [name for name in SUMMARY if name in found["posterior"]]
    table = az.summary(found, var_names=names, round_to="none")
    columns = ("mean", "sd", "hdi_3%", "hdi_97%", "ess_bulk", "r_hat")
    return [PosteriorRow(str(name), *(finite(row.get(column, np.nan)) for column in columns))
            for name, row in table.iterrows()]  # fmt: skip


def traces_figure(found: az.InferenceData) -> Figure:
    """Draws in order and their distribution against the prior's, one row per typical value."""
    posterior, prior = found["posterior"]["typical"], found["prior"]["typical"]
    names = [str(name) for name in posterior["parameter"].values]
    figure = Figure(figsize=(8.4, 1.5 * len(names)), layout="constrained")
    for name, (left, right) in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        own, before = posterior.sel(parameter=name), prior.sel(parameter=name).values.ravel()
        for chain, colour in zip(own["chain"].values, (ACCENT, SOFT, INK, SOFT), strict=False):
            left.plot(own.sel(chain=chain), color=colour, lw=0.6, alpha=0.8)
        left.set_ylabel(name, fontsize=8)
        values = own.values.ravel()
        edges = np.histogram_bin_edges(
            np.clip(np.concatenate([values, before]), 0.2 * values.min(), 3 * values.max()), 60
        )
        right.hist(before, bins=edges, density=True, color=SOFT, alpha=0.5, label="prior")
        right.hist(values, bins=edges, density=True, color=ACCENT, alpha=0.7, label="posterior")
        for axis in (left, right):
            axis.tick_params(labelsize=6)
            axis.spines[["top", "right"]].set_visible(False)
        right.legend(fontsize=6, frameon=False)
    return figure


def predictive_figure(found: az.InferenceData, data: PopulationData, group: str) -> Figure:
    """Observations over the 50 % and 95 % bands of the predictions, by time."""
    drawn = found[group]["outcome"].values.reshape(-1, len(data.times))
    times = np.unique(data.times)
    by_time = [drawn[:, data.times == time] for time in times]
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axis = figure.subplots()
    for low, high, alpha in ((2.5, 97.5, 0.18), (25.0, 75.0, 0.3)):
        ends = np.array([np.percentile(values, (low, high)) for values in by_time])
        axis.fill_between(times, ends[:, 0], ends[:, 1], color=ACCENT, alpha=alpha, lw=0)
    axis.plot(data.times, data.observed, ".", ms=4, color=INK, alpha=0.6, mew=0)
    axis.set(xlabel="time", ylabel="outcome", title=group.replace("_", " "))
    axis.spines[["top", "right"]].set_visible(False)
    return figure
