"""Observations in the long format of published data sets as the data of an estimation, in pieces of whole subjects.

One row per dose or observation, a subject's rows together and in the order of time: ``id``, ``time``, ``evid`` (0
observation, 1 dose), ``amt``, ``cmt``, ``dv`` and ``mdv`` (1: not observed). A dose acts on the rows below it.
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

from core.errors import ConfigError
from models.nlme.data import PopulationData
from models.nlme.structural import StructuralModel

COLUMNS = ("id", "time", "evid", "amt", "cmt", "dv", "mdv")
NOT_READ = ("rate", "addl", "ii", "ss")  # refused unless 0
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
    """The columns that count, in small letters, and what the table calls them."""
    own = {name.lower(): name for name in table.schema.names}
    return {name: own[name] for name in (*COLUMNS, *NOT_READ) if name in own}


def population_data(model: StructuralModel, table: pa.Table, *, first_row: int = 0) -> PopulationData:
    """The subjects of a table in the order they come in.

    Args:
        model: says which compartments there are.
        table: the columns above; others are not read.
        first_row: position of the table's first row in the whole, to name rows in errors.

    Raises:
        ConfigError: names the row (from 1) and what is wrong with it.
    """
    ids, time, amount = (_numbers(table, name) for name in ("id", "time", "amt"))
    evid, cmt, missing, value = (_numbers(table, name) for name in ("evid", "cmt", "mdv", "dv"))
    starts = _starts(ids)
    subject = np.repeat(np.arange(len(starts)), np.diff([*starts, len(ids)]))
    dose, seen = evid == 1, (evid == 0) & (missing == 0)
    again = np.concatenate([[False], (np.diff(time) < 0) & (np.diff(subject) == 0)])
    problems: list[tuple[Any, str, Any]] = [
        (~np.isfinite(time), "time is not a finite number", time),
        (again, "unsorted times of a subject", time),
        (~np.isin(evid, (0, 1)), "evid is neither 0 (observation) nor 1 (dose)", evid),
        (dose & ~((amount >= 0) & np.isfinite(amount)), "the amount of a dose is negative or missing", amount),
        (dose & ~np.isin(cmt, range(1, len(model.states) + 1)), f"model {model.name!r} has no such compartment", cmt),
        (seen & ~np.isfinite(value), "an observation has no dv (and mdv is 0)", value),
    ]
    for name in NOT_READ:
        if name in table.column_names:
            values = np.nan_to_num(_numbers(table, name))
            problems.append((dose & (values != 0), f"{name} is not 0, which this reader does not know", values))
    for bad, what, got in problems:
        if bad.any():
            row = int(np.argmax(bad))
            where = f"row {first_row + row + 1}, subject {ids[row]:.0f}"
            raise ConfigError(f"table of observations: {what}", where=where, got=got[row])
    if len(np.unique(ids[starts])) < len(starts):
        values, counts = np.unique(ids[starts], return_counts=True)
        raise ConfigError(
            "table of observations: rows of a subject are not together", where=f"id {values[counts > 1][0]:.0f}"
        )
    counts = np.bincount(subject[seen], minlength=len(starts))
    if (counts == 0).any():
        raise ConfigError("a subject has no observation", where=f"id {ids[starts[int(np.argmin(counts))]]:.0f}")
    event_start = np.concatenate([[0], np.cumsum(np.bincount(subject[dose], minlength=len(starts)))])
    bolus = np.zeros((int(dose.sum()), len(model.states)))
    bolus[np.arange(len(bolus)), cmt[dose].astype(int) - 1] = amount[dose]
    return PopulationData(
        ids=ids[starts].astype(np.int64),
        row_start=np.concatenate([[0], np.cumsum(counts)]),
        times=time[seen],
        observed=value[seen],
        before=(np.cumsum(dose) - event_start[subject])[seen],
        event_start=event_start,
        when=time[dose],
        bolus=bolus,
        rate=np.zeros_like(bolus),
    )


def _starts(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Where a new subject begins."""
    return np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1]).astype(np.int64)[: len(ids)]


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column as float64, NaN where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
