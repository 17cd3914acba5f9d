"""Tables in NM-TRAN's columns, written as CSV or Parquet in the dialects of NONMEM, nlmixr2, Monolix and Pumas.

All four read the same columns: NONMEM and nlmixr2 in capitals (missing values are ``.`` and ``NA``), Pumas in small
letters (missing values are empty), Monolix with ADM for the compartment of a dose. Numbers have as many digits as
reading them back exactly needs.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import replacing
from image_longitudinal.models.nlme.data.events import EventTable

WHOLE = ("ID", "EVID", "CMT", "ADDL", "SS", "MDV", "DVID", "CENS")  # columns of whole numbers


class _Style(NamedTuple):
    missing: str
    lower: bool = False
    compartment: str = "CMT"


Dialect = Literal["nonmem", "nlmixr2", "monolix", "pumas"]
FORMATS = (".csv", ".parquet")
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
_STYLES = {
    "nonmem": _Style("."),
    "nlmixr2": _Style("NA"),
    "monolix": _Style(".", compartment="ADM"),
    "pumas": _Style("", lower=True),
}


def check_target(path: str | Path) -> None:
    """ConfigError unless the file of a table ends in .csv or .parquet and its folder exists."""
    if Path(path).suffix.lower() not in FORMATS:
        expected = f"a name that ends in {' or '.join(FORMATS)}"
        raise ConfigError("unknown format of a table", expected=expected, got=path)
    if not Path(path).parent.is_dir():
        raise ConfigError("cannot write a table there", where=path, got="no such folder", do="create the folder first")


def write_rows(path: str | Path, pieces: Iterable[pa.Table], dialect: Dialect = "nonmem") -> int:
    """Write tables of one schema one after the other; the file appears whole or not at all. Returns the number of rows.

    Args:
        path: the file, replaced if it exists: Parquet if it ends in .parquet, else CSV.
        pieces: at least one table, with NM-TRAN's columns in capitals and others under their own names.
        dialect: spelling of columns and missing values.

    Raises:
        ConfigError: an unknown dialect, or no piece.
        OSError: the file cannot be written.
    """
    if dialect not in DIALECTS:
        raise ConfigError("unknown dialect of a table", expected=", ".join(DIALECTS), got=repr(dialect))
    file, style, rows = Path(path), _STYLES[dialect], 0
    parquet = file.suffix.lower() == ".parquet"
    remaining = (_spelled(piece, style) for piece in pieces)
    first = next(remaining, None)
    if first is None:
        raise ConfigError("a table has no rows", where=file)
    with replacing(file) as temporary:
        if parquet:
            writer = pq.ParquetWriter(temporary, first.schema, compression="zstd")
        else:
            options = pacsv.WriteOptions(quoting_style="none", quoting_header="none")
            text = pa.schema([(name, pa.string()) for name in first.column_names])
            writer = pacsv.CSVWriter(temporary, text, write_options=options)
        with writer:
            for piece in chain([first], remaining):
                writer.write_table(piece if parquet else _as_text(piece, style.missing))
                rows += piece.num_rows
    return rows


def write_events(table: EventTable, path: str | Path, dialect: Dialect = "nonmem") -> Path:
    """Write an event table; reading it back gives the same numbers. See :func:`check_target`, :func:`write_rows`."""
    check_target(path)
    columns = {name: _column(name, values) for name, values in table.columns.items()}
    if table.labels is not None:
        unusable = [name for name in table.labels if set(name) & set(',"\n')]
        if unusable and Path(path).suffix != ".parquet":
            raise ConfigError("an id cannot be written as CSV", got=repr(unusable[0]), do="write a .parquet file")
        columns["ID"] = pa.array([table.labels[int(number) - 1] for number in table["ID"]])
    write_rows(path, [pa.table(columns)], dialect)
    return Path(path)


def _spelled(table: pa.Table, style: _Style) -> pa.Table:
    names = [style.compartment if name == "CMT" else name for name in table.column_names]
    return table.rename_columns([name.lower() if style.lower else name for name in names])


def _as_text(table: pa.Table, missing: str) -> pa.Table:
    columns = [pc.fill_null(column.cast(pa.string()), missing) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _column(name: str, values: NDArray[np.float64]) -> pa.Array:
    missing = np.isnan(values)
    if name in WHOLE and (values[~missing] % 1 == 0).all():
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return pa.array(values, mask=missing)
