"""The report on a population fit: warnings, estimates, diagnostics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics import plots
from image_longitudinal.models.nlme.diagnostics.residuals import npde, predictive_checks, residuals
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.results import fit_warnings, load_fit, load_results
from image_longitudinal.models.nlme.intervals.profiles import RISE
from image_longitudinal.models.nlme.model.symbolic import risks_of
from image_longitudinal.tasks.population.image_summary import LEARNERS
from image_longitudinal.tasks.population.inputs import model_to_fit, observations_of, population_of, strata_of
from image_longitudinal.tasks.population.interval_summary import IntervalCells, interval_cells
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import DRAWS, REPORT, RESULTS, FitSummary, read_summary
from image_longitudinal.tasks.reports.pages import page

REPLICATES = 300
LISTED = 20  # subjects with the largest Pareto k
SHOWN = 1000  # subjects of simulated diagnostics, spread evenly over all


def report_fit(options: FitOptions, output: str) -> str:
    """Write report.html beside the results of a fit, and return its path."""
    folder = Path(output)
    model, summary = model_to_fit(options.model_copy(update={"start": {}})), read_summary(folder)
    table = observations_of(options, model)
    data, strata = population_of(options, table), strata_of(options, table)
    assert summary is not None
    if options.method == "nuts":
        from image_longitudinal.tasks.population.bayes import posterior_page  # here: PyMC is slow to import

        page = posterior_page(load_results(folder / DRAWS), model, data, options, summary)
    else:
        page = fit_page(load_fit(folder / RESULTS, model), data, options, summary, strata)
    write_atomically(folder / REPORT, page)
    return str(folder / REPORT)


def rendered_page(template: str, figures: Mapping[str, Figure], **content: Any) -> str:
    """A template of :mod:`tasks.reports`, filled with figures and other content."""
    return page(template, figures, **content)


def fit_page(
    found: Fit, data: PopulationData, options: FitOptions, summary: FitSummary, strata: Sequence[str] = ()
) -> str:
    """The page's HTML; the same fit gives the same page. ``strata``: a label of each subject, or none."""
    chosen = np.arange(len(data)) if len(data) <= SHOWN else np.linspace(0, len(data) - 1, SHOWN).astype(int)
    some = data if len(chosen) == len(data) else data.take(chosen)
    own = [strata[i] for i in chosen] if strata else [""] * len(chosen)
    endpoints = found.model.structural.endpoints if len(found.model.structural.endpoints) > 1 else ("",)
    labels = [
        ", ".join(part for part in (endpoints[endpoint] if len(endpoints) > 1 else "", own[subject]) if part)
        for endpoint, subject in zip(some.endpoint, some.subject_of_row, strict=True)
    ]
    unit = found.model.units.get("outcome", "")
    settings = {"n": REPLICATES, "seed": options.seed}
    errors = npde(found.model, some, **settings)
    timed = np.isin(some.endpoint, [risk.endpoint for risk in risks_of(found.model.structural)])
    checked, shown_labels = some.with_rows(~timed), [label for label, own in zip(labels, timed, strict=True) if not own]
    checks, corrected = (
        {} if timed.all() else predictive_checks(found.model, checked, shown_labels, corrected=how, **settings)
        for how in (False, True)
    )
    figures = {
        "fit": plots.goodness_of_fit(data, residuals(found.model, data, found.eta)),
        "npde": plots.distribution_errors(some, errors),
        "individual": plots.individual_fits(found.model, data, found.eta),
        "effects": plots.random_effects_figure(found),
    }
    for number, label in enumerate(checks):
        figures[f"vpc{number}"] = plots.predictive_check_figure(checks[label], unit)
        figures[f"pcvpc{number}"] = plots.predictive_check_figure(corrected[label], unit)
    if summary.profiles:
        points = {name: [point[:2] for point in own.points] for name, own in summary.profiles.items()}
        figures["profiles"] = plots.profiles_figure(points, found.objective, RISE)
    if found.eta.shape[1] > 1:
        figures["pairs"] = plots.pairs_of_effects(found)
    inside = [(label, check.inside, corrected[label].inside) for label, check in checks.items()]
    return rendered_page(
        "fit.html", figures, fit=found, options=options, summary=summary, warnings=fit_warnings(found),
        sd=np.sqrt(np.diag(found.model.omega)).tolist(), strata=inside,
        replicates=REPLICATES, shown=len(some), sampled=_sampled(found, data), intervals=_intervals(summary),
        learners=LEARNERS,
    )  # fmt: skip


def _intervals(summary: FitSummary) -> list[IntervalCells]:
    """Rows of the table of intervals that were made after the fit; none without any."""
    if not (summary.bootstrap or summary.sir or summary.profiles):
        return []
    return interval_cells(summary.estimates, summary.bootstrap, summary.sir, summary.profiles)


def _sampled(found: Fit, data: PopulationData) -> list[tuple[str, float, int, float]]:
    """Subjects with the largest Pareto k: id, k, draws, effective draws; empty for methods without sampling."""
    own = found.sampling
    if own is None:
        return []
    worst = np.argsort(-own.pareto_k, kind="stable")[:LISTED]
    columns = (own.pareto_k[worst].tolist(), own.draws[worst].tolist(), own.effective[worst].tolist())
    return list(zip(map(str, data.names[worst]), *columns, strict=True))
