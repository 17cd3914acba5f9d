"""The page about a population fit: what a reader should know first, estimates, diagnostics."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from prefect import task

from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.plots import (
    distribution_errors,
    goodness_of_fit,
    individual_fits,
    pairs_of_effects,
    predictive_check_figure,
    random_effects_figure,
)
from image_longitudinal.models.nlme.diagnostics.residuals import npde, residuals
from image_longitudinal.models.nlme.diagnostics.vpc import predictive_check
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.results import concerns, load_fit
from image_longitudinal.tasks.population.fit import RESULTS, FitSpec, named_model, population_of, read_summary
from image_longitudinal.tasks.reports.pictures import data_url, rendered

REPORT = "report.html"
REPLICATES = 300
SHOWN = 1000  # subjects that simulated diagnostics are made of, spread evenly over all


@task(name="report-fit", task_run_name="report on {spec.model} by {spec.method}")
def report_fit(spec: FitSpec, output: str) -> str:
    """Write report.html beside the results of a fit."""
    folder = Path(output)
    model = named_model(spec.model, spec.model_file, {})
    found = load_fit(folder / RESULTS, model)
    summary = read_summary(folder)
    assert summary is not None
    page = fit_page(found, population_of(spec, model), spec, summary)
    write_atomically(folder / REPORT, page)
    return str(folder / REPORT)


def fit_page(found: Fit, data: PopulationData, spec: FitSpec, summary: dict[str, Any]) -> str:
    """The page's HTML; the same fit gives the same page."""
    some = data if len(data) <= SHOWN else data.take(np.linspace(0, len(data) - 1, SHOWN).astype(int))
    unit = found.model.units.get("outcome", "")
    errors = npde(found.model, some, n=REPLICATES, seed=spec.seed)
    checks = [
        predictive_check(found.model, some, n=REPLICATES, seed=spec.seed, corrected=corrected)
        for corrected in (False, True)
    ]
    figures = {
        "fit": goodness_of_fit(data, residuals(found.model, data, found.eta)),
        "npde": distribution_errors(some, errors),
        "vpc": predictive_check_figure(checks[0], unit),
        "pcvpc": predictive_check_figure(checks[1], unit),
        "individual": individual_fits(found.model, data, found.eta),
        "effects": random_effects_figure(found),
    }
    if found.eta.shape[1] > 1:
        figures["pairs"] = pairs_of_effects(found)
    text = resources.files("image_longitudinal.tasks.reports").joinpath("templates", "fit.html").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template.render(
        fit=found,
        spec=spec,
        summary=summary,
        concerns=concerns(found),
        rows=estimate_rows(found),
        omega=omega_rows(found),
        pictures={name: data_url(rendered(figure)) for name, figure in figures.items()},
        inside=[check.inside for check in checks],
        replicates=REPLICATES,
        shown=len(some),
    )


def estimate_rows(found: Fit) -> list[dict[str, str]]:
    """Estimate, standard error, relative standard error and 95 % interval of every quantity, as text."""
    rows = []
    for name, (value, error) in found.table.items():
        known = bool(np.isfinite(error))
        relative = f"{100 * error / abs(value):.1f} %" if known and value else "–"
        interval = f"{value - 1.96 * error:.4g} – {value + 1.96 * error:.4g}" if known else "–"
        rows.append(
            {
                "name": name,
                "estimate": f"{value:.5g}",
                "error": f"{error:.3g}" if known else "–",
                "relative": relative,
                "interval": interval,
            }
        )
    return rows


def omega_rows(found: Fit) -> list[dict[str, Any]]:
    """Each random effect: standard deviation, shrinkage, and correlations with those before it."""
    omega = np.asarray(found.model.omega)
    sd = np.sqrt(np.diag(omega))
    return [
        {
            "name": name,
            "sd": f"{sd[i]:.4g}",
            "shrinkage": f"{found.shrinkage[i]:.1%}",
            "correlations": [f"{omega[i, j] / (sd[i] * sd[j]):.3f}" for j in range(i)],
        }
        for i, name in enumerate(found.model.random_effect_names)
    ]
