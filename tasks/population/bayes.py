"""Full Bayes on a table: draws by NUTS, kept, and a page about them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from prefect import task
from prefect.logging import get_run_logger

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.bayes.posterior import SUMMARY, doubts, sample_posterior
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.plots import ACCENT, INK, SOFT
from image_longitudinal.models.nlme.estimation.results import load, save
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.population.fit import SUMMARY as SUMMARY_FILE
from image_longitudinal.tasks.population.fit import FitSpec, named_model, observations_of, population_of, read_summary
from image_longitudinal.tasks.reports.pictures import data_url, rendered

BAYES_VERSION = 2  # raise it whenever the same table and options would give other draws
DRAWS, REPORT = "posterior.nc", "report.html"
CHAINS = 2


@task(name="sample-population", task_run_name="sample {spec.model}")
def sample_population(spec: FitSpec, output: str) -> dict[str, Any]:
    """Draw from the posterior and write draws and a summary into the folder; what is there is kept.

    Returns:
        The content of fit.json: posterior means and standard deviations in the place of estimates.
    """
    folder = Path(output)
    _, content = observations_of(spec)
    key = digest_of("sample-population", BAYES_VERSION, spec.model_dump(exclude={"table"}), content, spec.model_content)
    done = read_summary(folder)
    if done is not None and done["key"] == key and (folder / DRAWS).exists():
        get_run_logger().info("these draws are there already: nothing to do")
        return done
    model = named_model(spec.model, spec.model_file, spec.start)
    data = population_of(spec, model)
    folder.mkdir(parents=True, exist_ok=True)
    get_run_logger().info(
        f"{len(data):,} subjects, {len(data.times):,} observations; first a fit by FOCEI, which says where chains "
        "start, and the density is compiled"
    )
    told: list[Progress] = []  # from the first draw on: fit and compilation would spoil the rate

    def progress(done: int, total: int) -> None:
        told[:] = told or [Progress("sample", total, "draws", done)]
        told[0].update(done)

    found = sample_posterior(
        model, data, draws=spec.draws, tune=spec.draws, chains=CHAINS, omega=spec.omega, fixed=spec.fixed,
        seed=spec.seed, progress=progress,
    )  # fmt: skip
    save(found, folder / DRAWS)
    doubtful = doubts(found)
    summary = {
        "key": key,
        "model": spec.model,
        "method": "NUTS",
        "converged": not doubtful,
        "message": " ".join(doubtful) or "no doubts about the draws",
        "objective": None,
        "estimates": {
            row["name"]: {"estimate": row["mean"], "standard_error": row["sd"]} for row in posterior_rows(found)
        },
        "subjects": len(data),
        "subjects_fitted": len(data),
        "observations": len(data.times),
        "searches_not_converged": 0,
    }
    write_atomically(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return summary


@task(name="report-draws", task_run_name="report on {spec.model} by nuts")
def report_draws(spec: FitSpec, output: str) -> str:
    """Write report.html beside the draws."""
    folder = Path(output)
    found, summary = load(folder / DRAWS), read_summary(folder)
    data = population_of(spec, named_model(spec.model, spec.model_file, spec.start))
    assert summary is not None
    write_atomically(folder / REPORT, page_of(found, data, spec, summary))
    return str(folder / REPORT)


def page_of(found: az.InferenceData, data: PopulationData, spec: FitSpec, summary: dict[str, Any]) -> str:
    """The page's HTML; the same draws give the same page."""
    text = resources.files("image_longitudinal.tasks.reports").joinpath("templates", "posterior.html").read_text()
    figures = {
        "traces": traces_figure(found),
        "prior": predictive_figure(found, data, "prior_predictive"),
        "posterior": predictive_figure(found, data, "posterior_predictive"),
    }
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template.render(
        spec=spec,
        summary=summary,
        doubts=doubts(found),
        rows=posterior_rows(found),
        chains=found["posterior"].sizes["chain"],
        draws=found["posterior"].sizes["draw"],
        pictures={name: data_url(rendered(figure)) for name, figure in figures.items()},
    )


def posterior_rows(found: az.InferenceData) -> list[dict[str, Any]]:
    """Mean, standard deviation, 94 % interval, effective draws and R-hat of every population quantity."""
    names = [name for name in SUMMARY if name in found["posterior"]]
    table = az.summary(found, var_names=names, round_to="none")
    keep = {"mean": "mean", "sd": "sd", "hdi_3%": "low", "hdi_97%": "high", "ess_bulk": "ess", "r_hat": "rhat"}
    rows = []
    for name, row in table.iterrows():
        values = {ours: _finite(row[theirs]) for theirs, ours in keep.items() if theirs in row}
        rows.append({"name": str(name), "rhat": None, **values})
    return rows


def traces_figure(found: az.InferenceData) -> Figure:
    """Draws in their order and their distribution against the prior's, one row per typical value."""
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
    """Observations over the 50 % and 95 % bands of what the model predicts, by time."""
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


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
