"""Full Bayes on a table: draws by NUTS, and a report on them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import arviz as az
import numpy as np
from matplotlib.figure import Figure

from image_longitudinal.models.nlme.bayes.posterior import SUMMARY, convergence_warnings, sample_posterior
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.plots import ACCENT, INK, SOFT, bare
from image_longitudinal.models.nlme.estimation.results import save_results
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.report import rendered_page
from image_longitudinal.tasks.population.summary import DRAWS, FitSummary, ParameterEstimate, finite


class PosteriorRow(NamedTuple):
    """Mean, standard deviation, 95 % interval (2.5 % on each side), effective draws and R-hat; None if undefined."""

    name: str
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    ess: float | None
    rhat: float | None


def sample_to_folder(
    options: FitOptions, model: PopulationModel, data: PopulationData, folder: Path, key: str
) -> FitSummary:
    """Write draws from the posterior; posterior means and standard deviations are the estimates of the summary."""
    started: list[Progress] = []  # at the first draw: fit and compilation do not count towards the rate

    def progress(done: int, total: int) -> None:
        if not started:
            started.append(Progress("sample", total, "draws", done))
        started[0].update(done)

    found = sample_posterior(
        model, data, draws=options.draws, tune=options.draws, chains=2, omega=options.omega, fixed=options.fixed,
        seed=options.seed, progress=progress,
    )  # fmt: skip
    save_results(found, folder / DRAWS)
    warned = convergence_warnings(found)
    return FitSummary(
        key=key,
        model=options.model,
        method="NUTS",
        converged=not warned,
        message=" ".join(warned) or "no warnings about convergence",
        estimates={
            row.name: ParameterEstimate(estimate=row.mean, standard_error=row.sd, lower=row.low, upper=row.high)
            for row in posterior_rows(found, model.random_effect_names)
        },
        subjects=len(data),
        observations=len(data.times),
        subjects_fitted=len(data),
    )


def posterior_page(
    found: az.InferenceData, model: PopulationModel, data: PopulationData, options: FitOptions, summary: FitSummary
) -> str:
    """The page's HTML; the same draws give the same page."""
    figures = {
        "traces": traces_figure(found),
        "prior": predictive_figure(found, data, "prior_predictive"),
        "posterior": predictive_figure(found, data, "posterior_predictive"),
    }
    own = found["posterior"].sizes
    return rendered_page(
        "posterior.html", figures, options=options, summary=summary, warnings=convergence_warnings(found),
        rows=posterior_rows(found, model.random_effect_names), chains=own["chain"], draws=own["draw"],
    )  # fmt: skip


def posterior_rows(found: az.InferenceData, effects: Sequence[str]) -> list[PosteriorRow]:
    """A row for every population quantity; ``effects`` are the names of the random effects."""
    there = [name for name in SUMMARY if name in found["posterior"]]
    own = {"q2.5": partial(np.quantile, q=0.025), "q97.5": partial(np.quantile, q=0.975)}
    table = az.summary(found, var_names=there, round_to="none", stat_funcs=own)
    columns = ("mean", "sd", "q2.5", "q97.5", "ess_bulk", "r_hat")
    return [PosteriorRow(name, *(finite(row.get(column, np.nan)) for column in columns))
            for label, row in table.iterrows() if (name := _name(str(label), effects))]  # fmt: skip


def _name(label: str, effects: Sequence[str]) -> str:
    """The name of a quantity as in other fits, of ArviZ' label; empty for the upper triangle of Ω."""
    variable, _, index = label.rstrip("]").partition("[")
    if variable != "omega_matrix":
        return index or variable
    first, second = index.split(", ")
    return f"omega({first},{second})" if effects.index(second) <= effects.index(first) else ""


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
        shown = np.clip(np.concatenate([values, before]), 0.2 * values.min(), 3 * values.max())
        edges = np.histogram_bin_edges(shown, 60)
        right.hist(before, bins=edges, density=True, color=SOFT, alpha=0.5, label="prior")
        right.hist(values, bins=edges, density=True, color=ACCENT, alpha=0.7, label="posterior")
        for axis in (left, right):
            axis.tick_params(labelsize=6)
            bare(axis)
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
    bare(axis)
    return figure
