"""Event tables in files: read from CSV or Parquet, and written as NONMEM, nlmixr2, Monolix or Pumas want them.

All four read the same columns under names of their own: NONMEM and nlmixr2 in capitals (missing values are ``.`` and
``NA``), Pumas in small letters (missing values are empty), Monolix with ADM for the compartment of a dose. Numbers are
written with as many digits as reading them back exactly takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import replacing, write_atomically
from image_longitudinal.models.nlme.data.events import DEFAULTS, REQUIRED, EventTable, event_table
from image_longitudinal.models.nlme.model.structural import StructuralModel

WHOLE = ("ID", "EVID", "CMT", "ADDL", "SS", "MDV", "DVID", "CENS")  # columns of whole numbers
MISSING = ["", ".", "NA", "NaN", "nan"]
MONOLIX = {"ADM": "CMT", "Y": "DV", "YTYPE": "DVID", "OBSID": "DVID"}  # other names of the same columns


class Dialect(NamedTuple):
    """What one program expects: a missing value, and small letters or capitals."""

    missing: str
    lower: bool = False
    monolix: bool = False


DIALECTS = {
    "nonmem": Dialect("."),
    "nlmixr2": Dialect("NA"),
    "monolix": Dialect(".", monolix=True),
    "pumas": Dialect("", lower=True),
}


def read_events(
    path: str | Path, model: StructuralModel, *, interpolation: str = "locf", ignore: Sequence[str] = ()
) -> EventTable:
    """The event table of a CSV or Parquet file (by its suffix), in any of the dialects this module writes.

    Args:
        path: the file; a CSV has a header, and ``.``, ``NA`` or nothing where a value is missing.
        model: the structural model; its covariates are columns of the table.
        interpolation: of covariates, see :func:`models.nlme.data.events.event_table`.
        ignore: columns that may be there and mean nothing here.

    Raises:
        ConfigError: no such file, not a table, or unusable; names the column and the row of the table (1-based).
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such event table", got=file)
    try:
        if file.suffix == ".parquet":
            content = pa.parquet.read_table(file)
        else:
            options = pa.csv.ConvertOptions(null_values=MISSING, strings_can_be_null=True)
            content = pa.csv.read_csv(file, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError("not a readable event table", where=file, expected="CSV or Parquet", got=error) from error
    skipped = {name.upper() for name in ignore}
    columns: dict[str, NDArray[np.float64]] = {}
    for name in content.column_names:
        known = name.upper() in (*REQUIRED, *DEFAULTS, *(other.upper() for other in model.covariates))
        own = name if known else MONOLIX.get(name.upper(), name)
        if own.upper() in {other.upper() for other in columns}:
            raise ConfigError("event table has a column twice", where=file, got=name)
        if name.upper() not in skipped or known:
            columns[own] = _numbers(name, content[name], file)
    return event_table(columns, model, interpolation=interpolation, ignore=ignore)


def write_events(table: EventTable, path: str | Path, dialect: str = "nonmem") -> Path:
    """Write a table as CSV or Parquet (by the suffix), whole or not at all; reading it back gives the same numbers.

    Args:
        table: the events.
        path: where to; replaced if it exists.
        dialect: ``nonmem``, ``nlmixr2``, ``monolix`` or ``pumas``.

    Raises:
        ConfigError: an unknown dialect or suffix.
    """
    file = Path(path)
    if dialect not in DIALECTS or file.suffix not in (".csv", ".parquet"):
        raise ConfigError(
            "unknown kind of event table",
            expected=f"dialect {', '.join(DIALECTS)}; a name that ends in .csv or .parquet",
            got=f"{dialect!r}, {file.name}",
        )
    style = DIALECTS[dialect]
    arrays = {_spelled(name, style): _column(name, values) for name, values in table.columns.items()}
    content = pa.table(arrays)
    if file.suffix == ".parquet":
        with replacing(file) as temporary:
            pa.parquet.write_table(content, temporary, compression="zstd")
    else:
        write_atomically(file, _csv(content, style))
    return file


def _csv(content: pa.Table, style: Dialect) -> str:
    columns = [
        [style.missing if value is None else repr(value) for value in column.to_pylist()] for column in content.columns
    ]
    lines = [",".join(content.column_names), *(",".join(row) for row in zip(*columns, strict=True))]
    return "\n".join(lines) + "\n"


def _spelled(name: str, style: Dialect) -> str:
    if style.monolix and name == "CMT":
        return "ADM"
    return name.lower() if style.lower else name.upper()


def _column(name: str, values: NDArray[np.float64]) -> pa.Array:
    missing = np.isnan(values)
    if name in WHOLE and (values[~missing] % 1 == 0).all():
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return pa.array(values, mask=missing)


def _numbers(name: str, column: pa.ChunkedArray, file: Path) -> NDArray[np.float64]:
    """float64 with NaN where a value is missing; ConfigError with the row of what is no number."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    try:
        return np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # the latter: a type that has no such cast
        for row, value in enumerate(column.to_pylist(), 1):
            try:
                float(value if value is not None else "nan")
            except (TypeError, ValueError):
                raise ConfigError(
                    f"column {name} of the event table does not hold numbers",
                    where=f"{file}, row {row}",
                    got=repr(value),
                ) from error
        raise ConfigError(f"column {name} of the event table does not hold numbers", where=file) from error
