"""Outcomes of a published data set as a table in NM-TRAN's columns; needs no extra."""

from pathlib import Path

import pyarrow as pa

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.outputs import check_new_file
from image_longitudinal.models.nlme.data.nmtran_writer import Dialect, check_target, write_rows
from image_longitudinal.storage.dataset.reader import Dataset

# and RATE after AMT, if a dose is an infusion; ARM and covariates at the end, if a study design has them
COLUMNS = ("ID", "TIME", "EVID", "AMT", "CMT", "DV", "MDV")


def export_nmtran(
    dataset: Dataset, path: str | Path, *, level: float, split: str | None = None, dialect: Dialect = "nonmem",
    overwrite: bool = False,
) -> int:  # fmt: skip
    """Write doses and observations of one association level as CSV or Parquet, in constant memory.

    One row per dose and observation, in the order of ``observations``: by id and time, a dose before observations at
    its time. A dose that only other arms get has EVID 2 and amount 0. ``ID`` is the subject id of the data set, from 0;
    ``DV`` is missing on dose rows and at missed visits; numbers read back as the same float64 and, for ``DV``, float32.

    Args:
        dataset: an open data set.
        path: a local file that ends in .csv or .parquet; it appears whole or not at all.
        level: association level.
        split: one split, or all.
        dialect: spelling of columns and missing values.
        overwrite: replace the file if it exists.

    Returns:
        The number of rows.

    Raises:
        ConfigError: an unknown dialect or format.
        StorageError: the file exists or cannot be written, or the data set has no such level or split.
    """
    check_new_file(Path(path), overwrite)
    check_target(path)
    names = nmtran_columns(dataset)
    batches = dataset.scan("observations", level, split).to_batches(
        columns=[name.lower() for name in names], batch_readahead=2, fragment_readahead=2
    )
    pieces = (pa.table({name: batch[name.lower()] for name in names}) for batch in batches)
    try:
        return write_rows(path, pieces, dialect)
    except OSError as error:
        raise StorageError("cannot write a file", where=path, got=error) from error


def nmtran_columns(dataset: Dataset) -> tuple[str, ...]:
    """The columns of :func:`export_nmtran`, in order and in capitals."""
    infusions = any(dose.rate for dose in dataset.manifest.dose_slots.slots)
    own = tuple(field.name.upper() for field in dataset.manifest.study_columns.of_observations())
    return (*COLUMNS[:4], *(["RATE"] if infusions else []), *COLUMNS[4:], *own)
