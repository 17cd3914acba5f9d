"""Predictions for the test subjects of a data set: one Parquet file, the format of submissions.

Columns ``id`` and ``association``, and either ``eta_1`` … ``eta_k`` (random effects, one row per subject and level), or
``time`` and ``dv`` (outcomes, one row per subject, level and visit), or of a data set with arms ``arm`` and ``effect``
(individual effects of the arms against the first, one row per subject, level and arm from 1) or ``arm`` alone (a
policy: the arm that each subject should take). Levels may be missing, but not parts of a level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import replacing
from image_longitudinal.core.outputs import check_new_file
from image_longitudinal.storage.dataset.layout import eta_columns

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Submission:
    """Predictions by association level, rows in order of the test subjects' ids.

    ``kind`` is ``effects``, arrays (n, k); ``outcomes``, arrays (n, T); ``individual``, arrays (n, A - 1); or
    ``policy``, arrays (n, 1).
    """

    kind: str
    levels: dict[float, Array]


def write_predictions(path: Path, ids: NDArray[np.int64], level: float, eta: Array) -> None:
    """Write predicted random effects (n, k) of subjects (n,) at one level."""
    _write(path, [_rows("effects", ids, level, eta, ())])


def write_submission(
    path: Path, given: Mapping[str, Mapping[float, ArrayLike]], *, ids: NDArray[np.int64], levels: Sequence[float],
    n_eta: int, times: Sequence[float], arms: int = 0, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write predictions of one kind as a file that :func:`read_predictions` accepts.

    Args:
        path: the file.
        given: arrays of :class:`Submission` by kind and level; of exactly one kind.
        ids, levels, n_eta, times, arms: as for :func:`read_predictions`.
        overwrite: replace a file that exists.

    Raises:
        StorageError: see :meth:`storage.dataset.reader.Dataset.write_predictions`.
    """
    widths = {"effects": n_eta, "outcomes": len(times), **({"individual": arms - 1, "policy": 1} if arms else {})}
    if len(given) != 1 or not set(given) <= set(widths):
        expected = "exactly one kind of predictions" + ("" if arms else ": this data set has no arms")
        raise StorageError("which predictions?", expected=expected, got=", ".join(given) or "none")
    ((kind, by_level),) = given.items()
    check_new_file(path, overwrite)
    tables = []
    for level, values in by_level.items():
        where = f"association {level:g}"
        if level not in levels:
            expected = "one of " + ", ".join(map(str, levels))
            raise StorageError("no such association level in this data set", expected=expected, got=level)
        array = np.asarray(values, np.float64)
        array = array[:, None] if kind == "policy" and array.ndim == 1 else array
        if array.shape != (len(ids), widths[kind]):
            expected = f"shape {(len(ids), widths[kind])}: a row for each test subject, by id"
            raise StorageError("predictions have another shape", where=where, expected=expected, got=array.shape)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
            raise StorageError("a prediction is not finite", where=f"{where}, row {row}, id {ids[row]}")
        tables.append(_rows(kind, ids, level, array, times))
    if not tables:
        raise StorageError("predictions without a level", expected="an array by level: {0.5: array}")
    _write(path, tables)
    return path


def _rows(kind: str, ids: NDArray[np.int64], level: float, values: Array, times: Sequence[float]) -> pa.Table:
    """One level of a submission as rows of the file."""
    width = values.shape[1] if kind in ("outcomes", "individual") else 1
    columns = {"id": np.repeat(ids, width), "association": np.full(len(ids) * width, level)}
    if kind == "effects":
        columns |= {name: values[:, i] for i, name in enumerate(eta_columns(values.shape[1]))}
    elif kind == "outcomes":
        columns |= {"time": np.tile(np.asarray(times, np.float64), len(ids)), "dv": values.ravel()}
    elif kind == "individual":
        columns |= {"arm": np.tile(np.arange(1, width + 1), len(ids)), "effect": values.ravel()}
    else:
        columns |= {"arm": values[:, 0]}
    return pa.table({name: pa.array(column) for name, column in columns.items()})


def _write(path: Path, tables: Sequence[pa.Table]) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")


def read_predictions(
    path: str | Path, *, ids: NDArray[np.int64], levels: Sequence[float], n_eta: int, times: Sequence[float],
    arms: int = 0,
) -> Submission:  # fmt: skip
    """Read and check a file of predictions.

    Args:
        path: a Parquet file.
        ids: the test subjects, (n,), ascending.
        levels: association levels of the data set.
        n_eta: number of random effects.
        times: visits of the data set.
        arms: number of arms of the data set; 0 without any.

    Raises:
        StorageError: it is not a Parquet file, has other columns, or has an invalid row; names file, row (counted from
            0) and reason.
    """
    table = _read(Path(path))
    effects, names = eta_columns(n_eta), set(table.column_names)
    kinds: dict[str, tuple[str, ...]]
    kinds = {"effects": ("id", "association", *effects), "outcomes": ("id", "association", "time", "dv")}
    if arms:
        kinds |= {"individual": ("id", "association", "arm", "effect"), "policy": ("id", "association", "arm")}
    kind = next((kind for kind, columns in kinds.items() if names == set(columns)), None)
    if kind is None:
        expected = " or ".join(f"the columns {', '.join(columns)}" for columns in kinds.values())
        raise StorageError("predictions have other columns", where=path, expected=expected, got=table.column_names)
    columns = {name: _numbers(table, name, path) for name in kinds[kind]}
    position = np.minimum(np.searchsorted(ids, columns["id"]), len(ids) - 1)
    expected = f"an id of the test split, {ids[0]} to {ids[-1]}"
    _refuse(ids[position] != columns["id"], "not a test subject", path, columns["id"], expected=expected)
    known = np.asarray(levels, np.float64)
    level = _places(columns["association"], known, "no such association level in the data set", path)
    slot = np.zeros(len(position), np.int64)
    if kind == "outcomes":
        slot = _places(columns["time"], np.asarray(times, np.float64), "no such visit in the data set", path)
    elif kind == "individual":
        slot = _places(columns["arm"], np.arange(1.0, arms), "no such arm to compare with the first", path)
    elif kind == "policy":
        _places(columns["arm"], np.arange(float(arms)), "no such arm in the data set", path)
    width = {"outcomes": len(times), "individual": arms - 1}.get(kind, 1)
    cell = (level * len(ids) + position) * width + slot
    order = np.argsort(cell, kind="stable")
    repeated = np.zeros(len(cell), bool)
    repeated[order[1:]] = cell[order][1:] == cell[order][:-1]
    expected, again = "one row for each subject, level and visit", [f"id {one} again" for one in columns["id"]]
    _refuse(repeated, "a subject is predicted twice", path, again, expected=expected)
    of_kind = {"outcomes": ("dv",), "individual": ("effect",), "policy": ("arm",)}.get(kind, effects)
    values = np.stack([columns[name] for name in of_kind], axis=1)
    found = {}
    for index in np.unique(level).tolist():
        rows = level == index
        full = np.full((len(ids) * width, values.shape[1]), np.nan)
        full[cell[rows] - index * len(ids) * width] = values[rows]
        missing = np.flatnonzero(np.isnan(full[:, 0]))
        if len(missing):
            first = int(missing[0])
            absent = f"id {ids[first // width]}" + (f", time {times[first % width]:g}" if kind == "outcomes" else "")
            absent += f", arm {first % width + 1}" if kind == "individual" else ""
            raise StorageError(
                f"{len(missing)} predictions are missing", where=f"{path}, association {known[index]:g}",
                expected=f"all {len(ids)} subjects of the test split", got=f"none for {absent}",
            )  # fmt: skip
        found[float(known[index])] = full.reshape(len(ids), -1)
    return Submission(kind, found)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise StorageError("predictions not found", where=path, expected="a Parquet file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError("predictions cannot be read", where=path, expected="a Parquet file", got=error) from error
    if not table.num_rows:
        raise StorageError("predictions without rows", where=path)
    return table


def _numbers(table: pa.Table, name: str, path: str | Path) -> NDArray:
    column, kind = table[name], table.schema.field(name).type
    if not (pa.types.is_integer(kind) or (name != "id" and pa.types.is_floating(kind))):
        wanted = "integers" if name == "id" else "numbers"
        raise StorageError("a column has another type", where=f"{path}, column {name}", expected=wanted, got=kind)
    where = f"column {name}"
    _refuse(column.is_null().to_numpy(), "a prediction is missing", path, ["null"] * len(column), where)
    values = column.to_numpy()
    _refuse(~np.isfinite(values), "a prediction is not finite", path, values, where)
    return values.astype(np.int64 if name == "id" else np.float64)


def _places(given: Array, known: Array, problem: str, path: str | Path) -> NDArray[np.int64]:
    """The index among ``known`` of each given number, equal up to the rounding of float32."""
    place = np.abs(given[:, None] - known).argmin(1)
    wrong = np.abs(given - known[place]) > 1e-6 * np.maximum(1e-3, np.abs(given))
    _refuse(wrong, problem, path, given, expected="one of " + ", ".join(f"{value:g}" for value in known))
    return place


def _refuse(
    wrong: NDArray[np.bool_], problem: str, path: str | Path, got: Any, where: str = "", *, expected: str | None = None
) -> None:
    """Raise a StorageError about the first wrong row, if any."""
    if wrong.any():
        row = int(wrong.argmax())
        place = ", ".join(filter(None, (str(path), f"row {row}", where)))
        raise StorageError(problem, where=place, expected=expected, got=got[row])
