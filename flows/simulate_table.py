"""simulate-table: a trial simulated from a named model, as a table in NM-TRAN's columns."""

from pathlib import Path

from prefect import flow

from image_longitudinal.core.outputs import check_new_file
from image_longitudinal.tasks.population.options import SimulateOptions
from image_longitudinal.tasks.population.simulation import simulate_trial


@flow(name="simulate-table", flow_run_name="simulate {options.model} into {output}", persist_result=False)
def simulate_table(
    options: SimulateOptions, output: str, truth: str | None = None, workers: int = 2, overwrite: bool = False
) -> str:
    """Simulate subjects and write their table.

    Args:
        options: Model and design.
        output: CSV or Parquet file to write.
        truth: File for each subject's random effects and parameters.
        workers: Threads; the result does not depend on it.
        overwrite: Replace files that exist.

    Returns:
        The path of the table.
    """
    for path in (output, truth):
        if path is not None:
            check_new_file(Path(path), overwrite)
    return simulate_trial(options, output, truth, workers)
