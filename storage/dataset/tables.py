"""Parquet tables of one shard: subjects, random effects and observations, one file per split the shard touches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.io.root import FileRecord, Root

ROW_GROUP = 122_880  # rows: DuckDB's own row group, so that its scans parallelise without cutting one
OBSERVED_COMPARTMENT = 2  # Central, after Depot

# How columns are laid out before zstd compresses them; all others are plain: times and doses repeat from subject to
# subject, which it finds by itself. Smaller and faster to read than pyarrow's own choice, dictionaries for all. LZ4
# reads a fifth faster and takes 5 % more room; BYTE_STREAM_SPLIT for drawn numbers 5 % less, but few Sparks read that
SAME_IN_FILE = ("split", "shard", "association")  # dictionaries
ASCENDING = ("id", "image_index")  # differences


class Dose(NamedTuple):
    """``amt`` (≥ 0) given into compartment ``cmt`` (from 1) from ``time`` on at ``rate`` (0: at once); same for all."""

    time: float
    amt: float
    cmt: int = 1
    rate: float = 0.0


def write_subjects(
    root: Root, shard: Shard, *, seeds: NDArray[np.int64], eta: NDArray[np.float64], licence: str = ""
) -> tuple[FileRecord, ...]:
    """Write who the subjects of one shard are.

    Args:
        root: where the data set is.
        shard: which subjects.
        seeds: int64, shape (len(shard),), in id order: each subject's own seed.
        eta: float64, shape (len(shard), k): the random effects linked to the image.
        licence: SPDX identifier, for the metadata of the files.

    Returns:
        One record per split the shard touches. The same input gives the same bytes.

    Raises:
        StorageError: if the arrays do not fit the shard or are not finite, or the store refuses.
    """
    _check(shard, "seeds", seeds, 1)
    _check(shard, "eta", eta, 2)
    ids = np.arange(shard.start, shard.stop, dtype=np.int64)
    columns = {"id": ids, "image_index": ids, "seed": seeds, **_eta_columns(eta)}
    schema = layout.subjects_schema(eta.shape[1], licence=licence)
    path = partial(layout.subjects_path, shard.index)
    return _write_splits(root, shard, path, schema, partial(_cut, columns), shard=shard.index)


def write_random_effects(
    root: Root,
    shard: Shard,
    level: float,
    *,
    eta: NDArray[np.float64],
    parameters: Mapping[str, NDArray[np.float64]],
    units: Mapping[str, str] = layout.DEFAULT_UNITS,
    licence: str = "",
) -> tuple[FileRecord, ...]:
    """Write the random effects behind the outcomes of one association level, and what they make of each subject.

    Args:
        root: where the data set is.
        shard: which subjects.
        level: the association level, as written in the configuration.
        eta: float64, shape (len(shard), k), in id order.
        parameters: individual parameters by name, each float64, shape (len(shard),).
        units: may name a parameter's unit.
        licence: SPDX identifier, for the metadata of the files.

    Returns, raises: as :func:`write_subjects`.
    """
    _check(shard, "eta", eta, 2)
    for name, values in parameters.items():
        _check(shard, f"parameter {name}", values, 1)
    ids = np.arange(shard.start, shard.stop, dtype=np.int64)
    columns = {"id": ids, **_eta_columns(eta), **parameters}
    schema = layout.random_effects_schema(eta.shape[1], parameters, units, licence=licence)
    path = partial(layout.random_effects_path, level, shard.index)
    return _write_splits(root, shard, path, schema, partial(_cut, columns))


def write_observations(
    root: Root,
    shard: Shard,
    level: float,
    *,
    times: Sequence[float] | NDArray[np.float64],
    doses: Sequence[tuple[Any, ...]],
    dv: NDArray[Any],
    visits: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None,
    units: Mapping[str, str] = layout.DEFAULT_UNITS,
    observed_compartment: int = OBSERVED_COMPARTMENT,
    licence: str = "",
) -> tuple[FileRecord, ...]:
    """Write the outcomes of one association level in long format.

    Args:
        root: where the data set is.
        shard: which subjects.
        level: the association level, as written in the configuration.
        times: shape (T,), the observation times of every subject.
        doses: (time, amt, cmt, rate) of every dose, the same for every subject (:class:`Dose`).
        dv: float, finite, shape (len(shard), T), in id order; stored as float32.
        visits: each subject's own times, in the order of ``times``, and whether the visit took place, both
            (len(shard), T). A visit that did not keeps its row, without DV and with MDV 1.
        units: of ``time``, ``amt`` and ``dv``.
        observed_compartment: ``cmt`` of the observation rows.
        licence: SPDX identifier, for the metadata of the files.

    Returns, raises: as :func:`write_subjects`. Rows are sorted by id and time, a dose before what is observed then.
    """
    with np.errstate(over="ignore"):
        dv = np.asarray(dv, np.float32)  # what is too large for it is found just below
    _check(shard, "dv", dv, 2)
    if dv.shape[1] != len(times):
        raise StorageError("outcomes do not fit their times", expected=f"{len(times)} columns", got=dv.shape[1])
    pattern = observation_pattern(times, doses, observed_compartment)
    schema = layout.observations_schema(units, licence=licence, infusions="rate" in pattern)
    width, in_order = len(pattern["time"]), np.argsort(times, kind="stable")

    def columns(rows: slice) -> dict[str, Any]:
        n = rows.stop - rows.start
        values = np.zeros((n, width), np.float32)
        observed = pattern["evid"] == 0
        values[:, observed] = dv[rows][:, in_order]
        tiled = {name: np.tile(column, n) for name, column in pattern.items()}
        missing = np.tile(~observed, (n, 1))
        if visits:
            own, attended = (part[rows][:, in_order] for part in visits)
            missing[:, observed] = np.logical_not(attended)
            tiled["time"].reshape(n, width)[:, observed] = own
        ids = np.repeat(np.arange(shard.start + rows.start, shard.start + rows.stop, dtype=np.int64), width)
        mdv = missing.ravel()
        return {"id": ids, **tiled, "dv": pa.array(values.ravel(), mask=mdv), "mdv": mdv.astype(np.int8)}

    path = partial(layout.observations_path, level, shard.index)
    return _write_splits(root, shard, path, schema, columns, association=level)


def observation_pattern(
    times: Sequence[float] | NDArray[np.float64],
    doses: Sequence[tuple[Any, ...]],
    observed_compartment: int = OBSERVED_COMPARTMENT,
) -> dict[str, NDArray[Any]]:
    """Columns time, evid, amt, rate (with infusions only) and cmt of one subject's rows: all subjects have the same."""
    dosed = [Dose(*dose) for dose in doses]
    time = np.array([dose.time for dose in dosed] + list(times), np.float64)
    evid = np.repeat(np.array([1, 0], np.int8), [len(dosed), len(times)])
    amt = np.array([dose.amt for dose in dosed] + [0.0] * len(times), np.float64)
    cmt = np.array([dose.cmt for dose in dosed] + [observed_compartment] * len(times), np.int8)
    order = np.lexsort((evid == 0, time))
    rate = np.array([dose.rate for dose in dosed] + [0.0] * len(times), np.float64)
    infused = {"rate": rate[order]} if rate.any() else {}
    return {"time": time[order], "evid": evid[order], "amt": amt[order], **infused, "cmt": cmt[order]}


def _write_splits(
    root: Root,
    shard: Shard,
    path: Callable[[str], str],
    schema: pa.Schema,
    columns: Callable[[slice], Mapping[str, Any]],
    /,
    **constants: float,
) -> tuple[FileRecord, ...]:
    """One file per split that the shard touches: its ``path`` by the split, its ``columns`` by rows of the shard."""
    ranges = [(part.split, slice(part.start - shard.start, part.stop - shard.start)) for part in shard.splits]
    return tuple(_write(root, path(split), schema, columns(rows), split, **constants) for split, rows in ranges)


def _write(
    root: Root, path: str, schema: pa.Schema, columns: Mapping[str, Any], split: str, **constants: float
) -> FileRecord:
    n = len(columns["id"])
    repeated = {"split": split, **constants}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(repeated[field.name], field.type), n)
        for field in schema
    ]
    sorting = [pq.SortingColumn(schema.get_field_index(name)) for name in ("id", "time") if name in schema.names]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in SAME_IN_FILE if name in schema.names],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in ASCENDING if name in schema.names},  # else as it is
        sorting_columns=sorting,
    )
    return root.write_bytes(path, memoryview(sink.getvalue()), rows=n)


def _cut(columns: Mapping[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: column[rows] for name, column in columns.items()}


def _eta_columns(eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return dict(zip(layout.eta_columns(eta.shape[1]), np.ascontiguousarray(eta.T), strict=True))


def _check(shard: Shard, what: str, array: NDArray[Any], ndim: int) -> None:
    if array.ndim != ndim or len(array) != len(shard):
        raise StorageError(
            f"{what} does not fit its shard",
            where=f"shard {shard.index}",
            expected=f"{len(shard)} rows in {ndim} dimension{'s' if ndim > 1 else ''}",
            got=array.shape,
        )
    if not np.isfinite(array).all():
        bad = shard.start + int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise StorageError(f"{what} holds numbers that are not finite", where=f"shard {shard.index}, first at id {bad}")
