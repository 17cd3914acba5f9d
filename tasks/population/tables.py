"""Tables in NM-TRAN's columns: simulated trials, and outcomes of published data sets for NONMEM and others."""

from pathlib import Path

import pyarrow as pa
from prefect import task

from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.nlme.data.nmtran_reader import read_events
from image_longitudinal.models.nlme.data.nmtran_writer import Dialect, write_rows
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events, write_trial
from image_longitudinal.models.nlme.simulation.visits import Visits
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.population.inputs import named_model
from image_longitudinal.tasks.population.options import SimulateOptions, dose_of

COLUMNS = ("ID", "TIME", "EVID", "AMT", "CMT", "DV", "MDV")  # and RATE after AMT, if a dose is an infusion


@task(name="simulate-table", task_run_name="simulate {output}")
def simulate_trial(options: SimulateOptions, output: str, truth: str | None, workers: int) -> str:
    """Write a simulated table; see :mod:`models.nlme.simulation.trial`. Returns its path."""
    model = named_model(options.model, options.model_file, options.values)
    if options.events is not None:
        table = read_events(options.events, model.structural, interpolation=options.covariates)
        written = write_simulated_events(
            model, table, output, seed=options.seed, truth=truth, dialect=options.dialect, n_threads=workers
        )
        return str(written)
    doses = tuple(dose_of(text) for text in options.doses) or model.design.doses
    times, visits = options.times or model.design.times, None
    if options.jitter or options.missed or options.dropout:
        visits = Visits(times, tuple(dose.time for dose in doses), options.jitter, options.missed, options.dropout)
    written = write_trial(
        model, output, options.subjects, seed=options.seed, times=times, doses=doses, visits=visits,
        covariates=options.covariate_ranges, truth=truth, dialect=options.dialect, n_threads=workers,
        progress=Progress("simulate", options.subjects, "subjects").update,
    )  # fmt: skip
    return str(written)


def export_nmtran(
    dataset: Dataset, path: str | Path, *, level: float, split: str | None = None, dialect: Dialect = "nonmem"
) -> int:
    """Write doses and observations of one association level as CSV or Parquet, in constant memory.

    One row per dose and observation, in the order of ``observations``: by id and time, a dose before observations at
    its time. ``ID`` is the subject id of the data set, from 0; ``DV`` is missing on dose rows and at missed visits;
    numbers read back as the same float64 and, for ``DV``, float32.

    Args:
        dataset: an open data set.
        path: a new local file, Parquet if it ends in .parquet, else CSV; it appears whole or not at all.
        level: association level.
        split: one split, or all.
        dialect: spelling of columns and missing values.

    Returns:
        The number of rows.

    Raises:
        ConfigError: an unknown dialect.
        StorageError: the file exists or cannot be written, or the data set has no such level or split.
    """
    if Path(path).exists():
        raise StorageError("the file exists already", where=path, do="name another, or remove it")
    if not Path(path).parent.is_dir():
        raise StorageError("cannot write a file", where=path, got="no such folder")
    infusions = any(dose.rate for dose in dataset.manifest.doses)
    names = (*COLUMNS[:4], "RATE", *COLUMNS[4:]) if infusions else COLUMNS
    batches = dataset.scan("observations", level, split).to_batches(
        columns=[name.lower() for name in names], batch_readahead=2, fragment_readahead=2
    )
    pieces = (pa.table({name: batch[name.lower()] for name in names}) for batch in batches)
    try:
        return write_rows(path, pieces, dialect)
    except OSError as error:
        raise StorageError("cannot write a file", where=path, got=error) from error
