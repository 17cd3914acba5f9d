"""fit-table: a population model fitted to a table or to one association level of a published data set."""

from prefect import flow

from image_longitudinal.tasks.population.fit import fit_to_table
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.report import report_fit
from image_longitudinal.tasks.population.summary import FitSummary


@flow(name="fit-table", flow_run_name="fit {options.model} to {options.table}", persist_result=False)
def fit_table(options: FitOptions, output: str, workers: int = 2) -> FitSummary:
    """Fit, save the results, write a report; a fit with equal inputs is not repeated.

    Full Bayes writes draws (posterior.nc) in place of fit.nc and ebes.parquet.

    Args:
        options: Table, model and method.
        output: Folder for fit.nc, ebes.parquet, fit.json and report.html.
        workers: Threads; the result does not depend on it.

    Returns:
        The content of fit.json.
    """
    summary = fit_to_table(options, output, workers)
    report_fit(options, output)
    return summary
