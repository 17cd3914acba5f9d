"""Outcomes as an NM-TRAN data file: the CSV that NONMEM, nlmixr2, Pumas and Monolix read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import replacing
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.root import storage_errors

EXPORTED_COLUMNS = ("ID", "TIME", "EVID", "AMT", "CMT", "DV", "MDV")  # and RATE after AMT if a dose is an infusion
NMTRAN_NULL = "."


def export_nmtran(dataset: Dataset, path: str | Path, *, level: float, split: str | None = None) -> int:
    """Write doses and observations of one association level as CSV, in batches: memory does not grow with the subjects.

    A header line, then one row per dose and observation, sorted as ``observations``: by id and time, doses before
    observations. ``ID`` is the subject id of the data set, from 0; ``DV`` is "." on dose rows and at
    missed visits; numbers read back as the same float64 and, for ``DV``, float32.

    Args:
        dataset: an open data set.
        path: of a new local file; it appears complete or not at all.
        level: association level.
        split: one split, or all.

    Returns:
        The number of rows.

    Raises:
        StorageError: the file exists or cannot be written, or the data set has no such level or split.
    """
    path = Path(path)
    if path.exists():
        raise StorageError("the file exists already", where=path, do="name another, or remove it")
    if not path.parent.is_dir():
        raise StorageError("cannot write a file", where=path, expected="an existing folder", do="create the folder")
    infusions = any(dose.rate for dose in dataset.manifest.doses)
    names = (*EXPORTED_COLUMNS[:4], "RATE", *EXPORTED_COLUMNS[4:]) if infusions else EXPORTED_COLUMNS
    batches = dataset.scan("observations", level, split).to_batches(
        columns=[name.lower() for name in names], batch_readahead=2, fragment_readahead=2
    )
    rows = 0
    with (
        storage_errors("cannot write a file", str(path)),
        replacing(path) as temporary,
        open(temporary, "xb") as file,
    ):
        file.write((",".join(names) + "\n").encode())
        for table in _as_text(batches, names):
            pacsv.write_csv(table, file, pacsv.WriteOptions(include_header=False, quoting_style="none"))
            rows += len(table)
    return rows


def _as_text(batches: Iterator[pa.RecordBatch], names: tuple[str, ...]) -> Iterator[pa.Table]:
    for batch in batches:
        dv = pc.fill_null(batch["dv"].cast(pa.string()), NMTRAN_NULL)
        yield pa.table({name: dv if name == "DV" else batch[name.lower()] for name in names})
