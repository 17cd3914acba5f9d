"""Observations in the long format of published data sets as the data of an estimation, in pieces of whole subjects.

One row per event, a subject's rows together and in the order of time: ``id``, ``time``, ``evid``, ``amt``, ``cmt``,
``dv`` and ``mdv``, and whatever else of NM-TRAN's columns (:mod:`models.nlme.data.events`) and of covariates there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data import event_expansion as records
from image_longitudinal.models.nlme.data.events import DEFAULTS, REQUIRED, event_table
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.structural import StructuralModel

COLUMNS = ("id", "time", "evid", "amt", "cmt", "dv", "mdv")
BATCH_ROWS = 1 << 16
Source: TypeAlias = str | Path | Sequence[str | Path] | pads.Dataset


def open_observations(source: Source) -> pads.Dataset:
    """Parquet files, a CSV file (read whole), or a table that pyarrow has opened already, as a lazy table.

    Column names may be in any case; ``.`` and ``NA`` mean missing in a CSV.

    Raises:
        ConfigError: a file is missing or cannot be read, or a column is missing.
    """
    if isinstance(source, pads.Dataset):
        table = source
    else:
        files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
        for file in files:
            if not file.is_file():
                raise ConfigError("no such table of observations", got=file)
        try:
            if files[0].suffix == ".csv":
                options = pacsv.ConvertOptions(null_values=["", ".", "NA", "NaN"], strings_can_be_null=True)
                table = pads.dataset([pacsv.read_csv(file, convert_options=options) for file in files])
            else:
                table = pads.dataset([str(file) for file in files], format="parquet")
        except pa.ArrowInvalid as error:
            raise ConfigError("not a table", where=files[0], expected="a CSV or Parquet file", got=error) from error
    names = _names(table)
    missing = [name for name in COLUMNS if name not in names]
    text = [field for field in table.schema if field.name.lower() in missing]
    if text:
        raise ConfigError(
            f"column {text[0].name} of a table of observations does not hold numbers",
            expected="numbers, compartments (CMT) from 1 on in the order of the model's states, times without a date",
            got=text[0].type,
        )
    if missing:
        raise ConfigError(
            "a table of observations lacks columns",
            expected=", ".join(COLUMNS),
            got=", ".join(table.schema.names),
            do=f"add {', '.join(missing)}",
        )
    return table


def subject_tables(observations: pads.Dataset, size: int) -> Iterator[pa.Table]:
    """The rows of ``size`` subjects at a time (fewer at the end), in the order of the files, names in small letters."""
    rest: pa.Table | None = None
    names = _names(observations)
    batches = observations.to_batches(
        columns=list(names.values()), batch_size=BATCH_ROWS, batch_readahead=4, fragment_readahead=1
    )
    for batch in batches:
        if not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch]).rename_columns(list(names))
        rest = table if rest is None else pa.concat_tables([rest, table])
        starts = _starts(_numbers(rest, "id"))
        first = 0
        while len(starts) > first + size:
            yield rest.slice(starts[first], starts[first + size] - starts[first])
            first += size
        rest = rest.slice(starts[first])
    if rest is not None and rest.num_rows:
        yield rest


def _names(table: pads.Dataset) -> dict[str, str]:
    """The columns of numbers, in small letters, and what the table calls them; those above come first."""
    own = {field.name.lower(): field.name for field in table.schema if _is_number(field.type)}
    return {name: own[name] for name in (*COLUMNS, *sorted(set(own) - set(COLUMNS))) if name in own}


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def population_data(model: StructuralModel, table: pa.Table, *, first_row: int = 0) -> PopulationData:
    """The subjects of a table in the order they come in.

    Args:
        model: says which compartments, endpoints and covariates there are.
        table: NM-TRAN's columns (:mod:`models.nlme.data.events`) and the model's covariates, the last value of which is
            carried forward; others are not read.
        first_row: position of the table's first row in the whole, to name rows in errors.

    Raises:
        ConfigError: names the row (from 1) and what is wrong with it.
    """
    wanted = {name.lower(): name for name in (*REQUIRED, *DEFAULTS, *model.covariates)}
    columns = {wanted[name]: _numbers(table, name) for name in table.column_names if name in wanted}
    events = event_table(columns, model, first_row=first_row)
    data = records.population_data(events, model, first_row=first_row)
    counts = np.diff(data.row_start)
    if (counts == 0).any():
        raise ConfigError("a subject has no observation", where=f"id {data.ids[int(np.argmin(counts))]}")
    return data


def _starts(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Where a new subject begins."""
    return np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1]).astype(np.int64)[: len(ids)]


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as float64, NaN where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
