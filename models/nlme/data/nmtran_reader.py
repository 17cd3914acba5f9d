"""The one reader of tables in NM-TRAN's columns: text or Parquet files of NONMEM, nlmixr2, Monolix, Pumas or R.

One row per event, a subject's rows together and in the order of time. docs/reference/nmtran.md says what each column
may hold; what is not understood is refused by file, row and column, and what is not used is listed.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from image_longitudinal.core.errors import ConfigError, naming
from image_longitudinal.models.nlme.data.cells import as_labels, as_numbers, is_number, is_text
from image_longitudinal.models.nlme.data.clock import elapsed, is_clock
from image_longitudinal.models.nlme.data.columns import AUXILIARY, RULES, WITHOUT_EFFECT, column_names, kind_of
from image_longitudinal.models.nlme.data.endpoints import Labels
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import EventTable, event_table
from image_longitudinal.models.nlme.data.peculiarities import MISSING_CODE, Peculiarities, peculiarities
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.data.text_files import SUFFIXES, Decimal, read_text
from image_longitudinal.models.nlme.model.structural import OCCASION, StructuralModel, given_covariates

OBSERVED = ("id", "time", "evid", "amt", "cmt", "dv", "mdv")  # the first columns of a piece, where the table has them
BATCH_ROWS = 1 << 16
Source: TypeAlias = str | Path | Sequence[str | Path] | pads.Dataset


@dataclass(frozen=True, eq=False)
class ObservationTable:
    """A table that has been opened for a model, not yet read as a whole.

    Args:
        rows: the table.
        model: whose covariates and endpoints it has.
        reading: what a person says about it.
        file: its name, for errors; "" if there is none.
        names: the table's own column names by NM-TRAN's and the model's in small letters.
        unused: those of ``names`` that have no use.
        found: what is unusual about its values.
        ignored: number of lines that are comments.
    """

    rows: pads.Dataset
    model: StructuralModel
    reading: Reading
    file: str
    names: dict[str, str]
    unused: tuple[str, ...]
    found: Peculiarities
    ignored: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how the table is read, one sentence each."""
        notes = list(self.found.notes)
        if self.ignored:
            notes.append(f"{self.ignored} lines are comments and were ignored; rows are counted without them.")
        if self.unused and self.file:  # (a published data set has columns of its own)
            items = [self.names[name] for name in self.unused if name.upper() in WITHOUT_EFFECT]
            what = f" (NM-TRAN's {', '.join(items)} have no effect here)" if items else ""
            notes.append(f"Columns not used: {', '.join(self.names[name] for name in self.unused)}{what}.")
        return tuple(notes)

    def pieces(self, size: int) -> Iterator[pa.Table]:
        """The rows of ``size`` subjects at a time (fewer at the end), in the order of the files.

        Columns that are known or hold numbers, under NM-TRAN's names in small letters.
        """
        schema, used = self.rows.schema, set(self.names) - set(self.unused)
        numeric = {name for name, own in self.names.items() if is_number(schema.field(own).type)}
        first = [name for name in OBSERVED if name in used]
        chosen = [*first, *sorted((used | numeric) - set(first))]
        rest: pa.Table | None = None
        batches = self.rows.to_batches(
            columns=[self.names[name] for name in chosen], batch_size=BATCH_ROWS, batch_readahead=4,
            fragment_readahead=1,
        )  # fmt: skip
        for batch in batches:
            if not batch.num_rows:
                continue
            table = pa.Table.from_batches([batch]).rename_columns(chosen)
            rest = table if rest is None else pa.concat_tables([rest, table])
            starts = np.flatnonzero(_changes(rest["id"]))
            first_subject = 0
            while len(starts) > first_subject + size:
                yield rest.slice(starts[first_subject], starts[first_subject + size] - starts[first_subject])
                first_subject += size
            rest = rest.slice(starts[first_subject])
        if rest is not None and rest.num_rows:
            yield rest

    def events(self, piece: pa.Table, first_row: int = 0) -> EventTable:
        """The events of a piece; ConfigError names file, row (from 1) and column."""
        with _naming(self.file):
            spelled = {rule.name.lower(): rule.name for rule in (*RULES, *AUXILIARY)}
            spelled |= {name.lower(): name for name in given_covariates(self.model)}
            used = [name for name in piece.column_names if name not in (*self.unused, "date")]
            columns = {spelled[name]: self._column(name, piece, first_row) for name in used}
            return event_table(
                columns, self.model, interpolation=self.reading.interpolation, endpoints=self.reading.endpoints,
                first_row=first_row,
            )  # fmt: skip

    def population(self, piece: pa.Table, first_row: int = 0) -> PopulationData:
        """Observations and events of a piece's subjects; ConfigError as :meth:`events`, and for one without any."""
        table = self.events(piece, first_row)
        with _naming(self.file):
            data = expand_events(table, self.model, first_row=first_row)
            counts = np.diff(data.row_start)
            if (counts == 0).any():
                raise ConfigError("a subject has no observation", where=f"ID {data.names[int(np.argmin(counts))]}")
            return data

    def _column(self, name: str, piece: pa.Table, first_row: int) -> Labels:
        column, kind = piece[name], kind_of(name, self.model)
        if name == OCCASION and kind == "label":
            return self.found.occasions.numbers(as_labels(name, column, first_row=first_row), first_row)
        if name == "time" and is_clock(column):
            date = piece["date"] if "date" in piece.column_names else None
            return elapsed(column, date, _changes(piece["id"]), self.reading.time_unit, first_row)
        if kind == "label":
            return as_labels(name, column, first_row=first_row)
        values = as_numbers(name, column, flag=kind == "flag", first_row=first_row)
        if name in self.found.coded_missing:
            values = np.where(values == MISSING_CODE, np.nan, values)
        return values


def open_table(source: Source, decimal: Decimal = ".") -> tuple[pads.Dataset, str, int]:
    """A text file (read whole), Parquet files, or a table that pyarrow has opened: as a lazy table.

    Also its name for errors, and the number of lines that are comments.

    Raises:
        ConfigError: a file is missing or cannot be read.
    """
    if isinstance(source, pads.Dataset):
        return source, "", 0
    files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
    for file in files:
        if not file.is_file():
            raise ConfigError("no such table", got=file)
    if files[0].suffix.lower() in SUFFIXES:
        texts = [read_text(file, decimal) for file in files]
        for text in texts:
            column_names(text.rows.column_names)  # (before pyarrow meets two columns of one name)
        return pads.dataset([text.rows for text in texts]), str(files[0]), sum(text.ignored for text in texts)
    try:
        return pads.dataset([str(file) for file in files], format="parquet"), str(files[0]), 0
    except (pa.ArrowInvalid, OSError) as error:
        expected = f"a Parquet file, or text in a file that ends in {', '.join(SUFFIXES)}"
        raise ConfigError("not a table", where=files[0], expected=expected, got=error) from error


def open_observations(
    source: Source, model: StructuralModel, reading: Reading | None = None, *, with_values: bool = True
) -> ObservationTable:
    """Open a table for a model.

    Args:
        source: see :func:`open_table`.
        model: whose covariates and endpoints it has.
        reading: what the table does not say itself.
        with_values: whether the table must have DV, as for a fit.

    Raises:
        ConfigError: a file is missing or cannot be read, a column that is needed is missing, or two mean the same.
    """
    reading = reading or Reading()
    rows, file, ignored = open_table(source, reading.decimal)
    with _naming(file):
        names = column_names(rows.schema.names, model)
        needed = ["id", "time", *(["dv"] if with_values else []), *(name.lower() for name in given_covariates(model))]
        missing = [name.upper() for name in needed if name not in names]
        if missing:
            expected, got = ", ".join(name.upper() for name in needed), ", ".join(rows.schema.names)
            do = f"add {', '.join(missing)}"
            raise ConfigError("a table lacks columns", expected=expected, got=got, do=do)
        found, without = peculiarities(rows, names, model, reading)
        unused = tuple(name for name in names if kind_of(name, model) is None or name in without)
    return ObservationTable(rows, model, reading, file, names, unused, found, ignored)


def read_events(source: Source, model: StructuralModel, reading: Reading | None = None) -> EventTable:
    """The event table of a file for :func:`models.nlme.simulation.trial.write_simulated_events`.

    ConfigError: no such file, not a table, or unusable (names file, column and row, 1-based).
    """
    table = open_observations(source, model, reading, with_values=False)
    return table.events(whole(table))


def whole(table: ObservationTable, subjects: int | None = None) -> pa.Table:
    """All rows of a table, or those of its first subjects; ConfigError if there are none."""
    rows = next(table.pieces(subjects or 1 << 60), None)
    if rows is None:
        raise ConfigError("a table has no rows", where=table.file or None)
    return rows


def first_rows(ids: pa.ChunkedArray) -> np.ndarray:
    """Position of each subject's first row, (n,)."""
    return np.flatnonzero(_changes(ids))


def _changes(ids: pa.ChunkedArray) -> np.ndarray:
    """Whether a row's id differs from that of the row above, (rows,)."""
    if is_text(ids.type):
        ids = pc.dictionary_encode(ids.cast(pa.string())).combine_chunks().indices
        values = ids.to_numpy(zero_copy_only=False)
    else:
        values = as_numbers("id", ids)
    return np.append(True, np.diff(values) != 0)


def _naming(file: str) -> AbstractContextManager[None]:
    return naming(file) if file else nullcontext()
