"""search-covariates: relations of parameters with covariates, searched step by step."""

from pathlib import Path

from prefect import flow

from image_longitudinal.core.outputs import new_folder
from image_longitudinal.tasks.population.covariates import FILES, SearchSummary, search_to_folder
from image_longitudinal.tasks.population.options import CovariateOptions


@flow(name="search-covariates", flow_run_name="covariates of {options.model} in {options.table}", persist_result=False)
def search_covariates(
    options: CovariateOptions, output: str, workers: int = 2, overwrite: bool = False
) -> SearchSummary:
    """Add and remove relations by the likelihood ratio; write steps, a report, and the model found as a file.

    Args:
        options: Table, model, method and candidates.
        output: Folder for search.json, report.html, model.py.
        workers: Fits at a time; the result does not depend on it.
        overwrite: Replace an earlier search.

    Returns:
        The content of search.json.
    """
    with new_folder(Path(output), FILES, overwrite) as folder:
        return search_to_folder(options, str(folder), workers)
