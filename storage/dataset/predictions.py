"""Predictions for the held-out subjects of a data set, submitted as one Parquet file.

Columns ``id`` and ``association``, and either ``eta_1`` … ``eta_k`` (random effects, one row per subject and level) or
``time`` and ``dv`` (outcomes, one row per subject, level and visit). Each level in the file must be complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.layout import eta_columns

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Submission:
    """Predictions by association level, rows in order of the held-out ids.

    ``kind`` is ``effects``, arrays (n, k), or ``outcomes``, arrays (n, T).
    """

    kind: str
    levels: dict[float, Array]


def read_predictions(
    path: str | Path, *, ids: NDArray[np.int64], levels: Sequence[float], n_eta: int, times: Sequence[float]
) -> Submission:
    """Read and check a file of predictions.

    Args:
        path: a Parquet file.
        ids: the held-out subjects, (n,), ascending.
        levels: association levels of the data set.
        n_eta: number of random effects.
        times: visits of the data set.

    Raises:
        StorageError: the file is not Parquet, has other columns or an impossible row; names file, row (from 0) and
            reason.
    """
    table = _read(Path(path))
    effects, names = eta_columns(n_eta), set(table.column_names)
    kinds = {"effects": ("id", "association", *effects), "outcomes": ("id", "association", "time", "dv")}
    kind = next((kind for kind, columns in kinds.items() if names == set(columns)), None)
    if kind is None:
        expected = " or ".join(f"the columns {', '.join(columns)}" for columns in kinds.values())
        raise StorageError("unknown columns of predictions", where=path, expected=expected, got=table.column_names)
    columns = {name: _numbers(table, name, path) for name in kinds[kind]}
    position = _positions(columns["id"], ids, path)
    known = np.asarray(levels, np.float64)
    level = _places(columns["association"], known, "an association level that is not in the data set", path)
    visit = np.zeros(len(position), np.int64)
    if kind == "outcomes":
        visit = _places(
            columns["time"], np.asarray(times, np.float64), "a time that is not a visit of the data set", path
        )
    width = len(times) if kind == "outcomes" else 1
    cell = (level * len(ids) + position) * width + visit
    _refuse_duplicates(cell, columns, path)
    values = np.stack([columns[name] for name in (("dv",) if kind == "outcomes" else effects)], axis=1)
    found = {}
    for index in np.unique(level).tolist():
        rows = level == index
        full = np.full((len(ids) * width, values.shape[1]), np.nan)
        full[cell[rows] - index * len(ids) * width] = values[rows]
        missing = np.flatnonzero(np.isnan(full[:, 0]))
        if len(missing):
            first = int(missing[0])
            absent = f"id {ids[first // width]}" + (f", time {times[first % width]:g}" if kind == "outcomes" else "")
            raise StorageError(
                f"{len(missing)} predictions are missing", where=f"{path}, association {known[index]:g}",
                expected=f"all {len(ids)} subjects of the test split", got=f"none for {absent}",
            )  # fmt: skip
        found[float(known[index])] = full.reshape(len(ids), -1)
    return Submission(kind, found)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise StorageError("no predictions file", where=path, expected="a Parquet file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError("predictions cannot be read", where=path, expected="a Parquet file", got=error) from error
    if not table.num_rows:
        raise StorageError("the predictions file has no rows", where=path)
    return table


def _numbers(table: pa.Table, name: str, path: str | Path) -> NDArray:
    column, kind = table[name], table.schema.field(name).type
    if not (pa.types.is_integer(kind) or (name != "id" and pa.types.is_floating(kind))):
        wanted = "integers" if name == "id" else "numbers"
        raise StorageError("a column has another type", where=f"{path}, column {name}", expected=wanted, got=kind)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise StorageError("a prediction is missing", where=f"{path}, row {row}, column {name}", got="null")
    values = column.to_numpy()
    if name != "id" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise StorageError("a prediction is not finite", where=f"{path}, row {row}, column {name}", got=values[row])
    return values.astype(np.int64 if name == "id" else np.float64)


def _positions(given: NDArray[np.int64], ids: NDArray[np.int64], path: str | Path) -> NDArray[np.int64]:
    position = np.minimum(np.searchsorted(ids, given), len(ids) - 1)
    unknown = np.flatnonzero(ids[position] != given)
    if len(unknown):
        row = int(unknown[0])
        raise StorageError(
            "a subject is not held out", where=f"{path}, row {row}",
            expected=f"an id of the test split, {ids[0]} to {ids[-1]}", got=given[row],
        )  # fmt: skip
    return position


def _places(given: Array, known: Array, what: str, path: str | Path) -> NDArray[np.int64]:
    """The index among ``known`` of each given number, equal within float32 rounding."""
    place = np.abs(given[:, None] - known).argmin(1)
    wrong = np.flatnonzero(np.abs(given - known[place]) > 1e-6 * np.maximum(1e-3, np.abs(given)))
    if len(wrong):
        row = int(wrong[0])
        expected = "one of " + ", ".join(f"{value:g}" for value in known)
        raise StorageError(what, where=f"{path}, row {row}", expected=expected, got=f"{given[row]:g}")
    return place


def _refuse_duplicates(cell: NDArray[np.int64], columns: dict[str, NDArray], path: str | Path) -> None:
    order = np.argsort(cell, kind="stable")
    duplicates = order[1:][cell[order][1:] == cell[order][:-1]]
    if len(duplicates):
        row = int(duplicates.min())
        raise StorageError(
            "a subject is predicted twice", where=f"{path}, row {row}",
            expected="one row for each subject, level and visit", got=f"id {columns['id'][row]} again",
        )  # fmt: skip
