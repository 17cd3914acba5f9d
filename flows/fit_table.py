"""fit-table: a population model fitted to a table or to one association level of a published data set."""

from __future__ import annotations

from typing import Any

from prefect import flow

from image_longitudinal.tasks.population.bayes import report_draws, sample_population
from image_longitudinal.tasks.population.fit import FitSpec, Method, fit_population
from image_longitudinal.tasks.population.report import report_fit


@flow(name="fit-table", flow_run_name="fit {model} to {table}", persist_result=False)
def fit_table(
    table: str,
    model: str,
    output: str,
    method: Method = "focei",
    level: float | None = None,
    split: str | None = None,
    subjects: int | None = None,
    start: dict[str, float] | None = None,
    fixed: tuple[str, ...] = (),
    diagonal: bool = False,
    draws: int = 300,
    seed: int = 1,
    model_file: str | None = None,
    workers: int = 2,
) -> dict[str, Any]:
    """Fit, keep the results, write a report; a fit that is there already is not made again.

    Full Bayes keeps draws (posterior.nc) in the place of fit.nc and ebes.parquet.

    Args:
        table: CSV or Parquet file in NM-TRAN's columns, or the address of a published data set.
        model: Name of the population model; its values are the start.
        output: Folder for fit.nc, ebes.parquet, fit.json and report.html.
        method: fo, foce, focei, laplace, imp (maximum likelihood by importance sampling) or nuts (full Bayes). The
            first four put a Gaussian around one mode in the place of each individual posterior; depot-central-mm has
            several modes, and FOCE's typical values are biased there (8 % at 10,000 subjects, two standard errors and
            more from 2,000 on). imp is not; it keeps draws x observations in memory.
        level: Association level of a published data set.
        split: Split of a published data set; all without one.
        subjects: Fit only the first so many; empirical Bayes estimates are made for all.
        start: Start values over the model's, such as imax 1.1, omega 0.2, additive 0.1.
        fixed: Parameters to hold at their start; omega and residual hold those.
        diagonal: Hold the covariances of the random effects at 0.
        draws: Per subject for imp, per chain for nuts.
        seed: Of imp, nuts and simulated diagnostics.
        model_file: Python file that registers the model.
        workers: Threads; the result does not depend on it.

    Returns:
        The content of fit.json.
    """
    spec = FitSpec(
        table=table, model=model, model_file=model_file, method=method, level=level, split=split, subjects=subjects,
        omega="diagonal" if diagonal else "full", fixed=fixed, start=start or {}, draws=draws, seed=seed,
    )  # fmt: skip
    if method == "nuts":
        summary = sample_population(spec, output)
        report_draws(spec, output)
    else:
        summary = fit_population(spec, output, workers)
        report_fit(spec, output)
    return summary
