"""fit-table: a population model fitted to a table or to one association level of a published data set."""

from pathlib import Path

from prefect import flow

from image_longitudinal.core.outputs import new_folder
from image_longitudinal.tasks.engine.progress import run_logger
from image_longitudinal.tasks.population.fit import FILES, finished_fit, fit_to_table, write_sdtab
from image_longitudinal.tasks.population.images import add_images, checked_images
from image_longitudinal.tasks.population.intervals import add_intervals, check_wanted
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.report import report_fit
from image_longitudinal.tasks.population.summary import FitSummary, read_summary


@flow(name="fit-table", flow_run_name="fit {options.model} to {options.table}", persist_result=False)
def fit_table(options: FitOptions, output: str, workers: int = 2, overwrite: bool = False) -> FitSummary:
    """Fit, save the results, write a report; a fit with equal inputs is not repeated, another one not replaced.

    Full Bayes writes draws (posterior.nc) in place of fit.nc and ebes.parquet. Intervals by bootstrap, profile
    likelihood and SIR are added to a fit that is complete, in its folder: an interrupted bootstrap goes on. So is what
    images explain; images are read and matched with the table before the fit.

    Args:
        options: Table, model and method.
        output: Folder for fit.nc, ebes.parquet, fit.json, report.html and, if asked for, sdtab.parquet or sdtab.csv,
            bootstrap.parquet, sir.parquet, image-predictor.safetensors and image-effects.parquet.
        workers: Threads; the result does not depend on it.
        overwrite: Replace the results of another fit.

    Returns:
        The content of fit.json.
    """
    check_wanted(options)
    images = checked_images(options, output)
    summary = finished_fit(options, Path(output))
    if summary:
        run_logger().info("cache hit: this fit exists")
        write_sdtab(options, output)
    else:
        with new_folder(Path(output), FILES, overwrite) as folder:
            summary = fit_to_table(options, str(folder), workers)
            write_sdtab(options, str(folder))
            report_fit(options, str(folder))
    added = add_intervals(options, output, workers, overwrite)
    if not add_images(options, images, output, workers, overwrite) and not added:
        return read_summary(Path(output)) or summary
    report_fit(options, output)
    return read_summary(Path(output)) or summary
