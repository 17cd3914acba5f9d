"""Tables in NM-TRAN's columns, read from CSV or Parquet in any dialect of :mod:`models.nlme.data.nmtran_writer`.

One row per event, a subject's rows together and in the order of time. Column names may be in any case; ``.``, ``NA``
and nothing are missing values in a CSV; Monolix' names are understood.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import DEFAULTS, REQUIRED, EventTable, Interpolation, event_table
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.structural import StructuralModel

OBSERVED = ("id", "time", "evid", "amt", "cmt", "dv", "mdv")  # columns that a table of observations needs
BATCH_ROWS = 1 << 16
MISSING = ["", ".", "NA", "NaN", "nan"]
MONOLIX = {"adm": "cmt", "y": "dv", "ytype": "dvid", "obsid": "dvid"}  # used where the table has no such column itself
Source: TypeAlias = str | Path | Sequence[str | Path] | pads.Dataset


def open_table(source: Source) -> pads.Dataset:
    """Parquet files, a CSV file (read whole), or a table that pyarrow has opened already, as a lazy table.

    Raises:
        ConfigError: a file is missing or cannot be read.
    """
    if isinstance(source, pads.Dataset):
        return source
    files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
    for file in files:
        if not file.is_file():
            raise ConfigError("no such table", got=file)
    try:
        if files[0].suffix.lower() == ".csv":
            options = pacsv.ConvertOptions(null_values=MISSING, strings_can_be_null=True)
            return pads.dataset([pacsv.read_csv(file, convert_options=options) for file in files])
        return pads.dataset([str(file) for file in files], format="parquet")
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError("not a table", where=files[0], expected="a CSV or Parquet file", got=error) from error


def open_observations(source: Source) -> pads.Dataset:
    """As :func:`open_table`; ConfigError also if a column that observations need is missing or not of numbers."""
    table = open_table(source)
    names = _names(table.schema)
    missing = [name for name in OBSERVED if name not in names or not _is_number(table.schema.field(names[name]).type)]
    text = [names[name] for name in missing if name in names]
    if text:
        raise ConfigError(
            f"column {text[0]} of a table of observations does not hold numbers",
            expected="numbers, compartments (CMT) from 1 on in the order of the model's states, times without a date",
            got=table.schema.field(text[0]).type,
        )
    if missing:
        expected, got, do = ", ".join(OBSERVED), ", ".join(table.schema.names), f"add {', '.join(missing)}"
        raise ConfigError("a table of observations lacks columns", expected=expected, got=got, do=do)
    return table


def subject_tables(observations: pads.Dataset, size: int) -> Iterator[pa.Table]:
    """The rows of ``size`` subjects at a time (fewer at the end), in the order of the files.

    Only columns of numbers, under NM-TRAN's names in small letters.
    """
    schema = observations.schema
    names = {name: own for name, own in _names(schema).items() if _is_number(schema.field(own).type)}
    rest: pa.Table | None = None
    batches = observations.to_batches(
        columns=list(names.values()), batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=1
    )
    for batch in batches:
        if not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch]).rename_columns(list(names))
        rest = table if rest is None else pa.concat_tables([rest, table])
        ids = _numbers("id", rest["id"])
        starts = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1])
        first = 0
        while len(starts) > first + size:
            yield rest.slice(starts[first], starts[first + size] - starts[first])
            first += size
        rest = rest.slice(starts[first])
    if rest is not None and rest.num_rows:
        yield rest


def population_data(
    model: StructuralModel, table: pa.Table, *, interpolation: Interpolation = "locf", first_row: int = 0
) -> PopulationData:
    """The subjects of a table of :func:`subject_tables`, in its order; columns that the model does not use are ignored.

    ``interpolation`` (of covariates) and ``first_row`` as in :func:`models.nlme.data.events.event_table`; ConfigError
    names the row (from 1) and the problem.
    """
    wanted = {name.lower(): name for name in (*REQUIRED, *DEFAULTS, *model.covariates)}
    columns = {wanted[name]: _numbers(name, table[name]) for name in table.column_names if name in wanted}
    events = event_table(columns, model, interpolation=interpolation, first_row=first_row)
    data = expand_events(events, model, first_row=first_row)
    counts = np.diff(data.row_start)
    if (counts == 0).any():
        raise ConfigError("a subject has no observation", where=f"id {data.ids[int(np.argmin(counts))]}")
    return data


def read_events(
    source: Source, model: StructuralModel, *, interpolation: Interpolation = "locf", ignore: Sequence[str] = ()
) -> EventTable:
    """The event table of a file (see :func:`open_table`) as :func:`models.nlme.data.events.event_table` checks it.

    Columns that the model does not know are refused, those in ``ignore`` skipped. ConfigError: no such file, not a
    table, or unusable (names the column and the row, 1-based).
    """
    content, skipped = open_table(source).to_table(), {name.lower() for name in ignore}
    names = {name: own for name, own in _names(content.schema).items() if name not in skipped}
    columns = {own if own.lower() == name else name: _numbers(own, content[own]) for name, own in names.items()}
    return event_table(columns, model, interpolation=interpolation)


def _names(schema: pa.Schema) -> dict[str, str]:
    """The table's own names by NM-TRAN's in small letters; columns of observations come first."""
    own: dict[str, str] = {}
    for name in schema.names:
        if own.setdefault(name.lower(), name) != name:
            raise ConfigError("a table has a column twice", got=f"{own[name.lower()]}, {name}")
    known = {MONOLIX[name] if name in MONOLIX and MONOLIX[name] not in own else name: own[name] for name in own}
    return {name: known[name] for name in (*OBSERVED, *sorted(set(known) - set(OBSERVED))) if name in known}


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _numbers(name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as float64, NaN for null; ConfigError with the row of a value that is no number."""
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # the latter: a type without such a cast
        where, got = None, column.type
        for row, value in enumerate(column.to_pylist(), 1):
            try:
                float("nan" if value is None else value)
            except (TypeError, ValueError):
                where, got = f"row {row}", repr(value)
                break
        raise ConfigError(f"column {name} of a table does not hold numbers", where=where, got=got) from error
