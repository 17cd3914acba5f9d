"""Parquet tables of one shard: subjects, random effects and observations, one file per split the shard touches."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.study_columns import NO_STUDY, StudyColumns
from image_longitudinal.storage.io.root import FileRecord, Root

ROW_GROUP = 122_880  # rows: the row group of DuckDB, which scans whole row groups in parallel
OBSERVED_COMPARTMENT = 2  # Central, after Depot

# Encodings before zstd compresses; all other columns are plain, because zstd finds the times and doses that repeat from
# subject to subject. Smaller and faster to read than pyarrow's default, dictionaries for all columns. LZ4 reads a fifth
# faster and takes 5 % more space; BYTE_STREAM_SPLIT for random numbers saves 5 %, but few versions of Spark read it
CONSTANT_COLUMNS = ("split", "shard", "association")  # one value per file: dictionaries
NOTHING: Mapping[str, Any] = MappingProxyType({})
ASCENDING_COLUMNS = ("id", "image_index")  # differences


class PlannedDose(NamedTuple):
    """A dose that all subjects get: amount ``amt`` (≥ 0) into compartment ``cmt`` (from 1) from ``time`` on.

    ``rate`` is that of an infusion, 0 for a bolus.
    """

    time: float
    amt: float
    cmt: int = 1
    rate: float = 0.0


def write_subjects(
    root: Root, shard: Shard, *, seeds: NDArray[np.int64], eta: NDArray[np.float64], licence: str = "",
    study: StudyColumns = NO_STUDY, own: Mapping[str, NDArray[Any]] = NOTHING,
) -> tuple[FileRecord, ...]:  # fmt: skip
    """Write the subjects of one shard.

    Args:
        root: where the data set is.
        shard: the subjects.
        seeds: int64, shape (len(shard),), in id order: each subject's own seed.
        eta: float64, shape (len(shard), k): the random effects linked to the image.
        licence: SPDX identifier, for the metadata of the files.
        study: what a study design adds.
        own: the columns that it adds, each (len(shard),), by name.

    Returns:
        One record for each split in the shard. The same input gives the same bytes.

    Raises:
        StorageError: the arrays do not fit the shard or are not finite, or a file cannot be written.
    """
    _check(shard, "seeds", seeds, 1)
    ids = np.arange(shard.start, shard.stop, dtype=np.int64)
    columns = {"id": ids, "image_index": ids, "seed": seeds, **_eta_columns(shard, eta), **own}
    schema = layout.table_columns("subjects", eta.shape[1], licence=licence, study=study)
    return _write_splits(root, shard, "subjects", None, schema, partial(_cut, columns))


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
    """Write the random effects used at one association level, and each subject's individual parameters.

    Args:
        root, shard, licence: as for :func:`write_subjects`, as are result and errors.
        level: the association level, as written in the configuration.
        eta: float64, shape (len(shard), k), in id order.
        parameters: individual parameters by name, each float64, shape (len(shard),).
        units: may name a parameter's unit.
    """
    for name, values in parameters.items():
        _check(shard, f"parameter {name}", values, 1)
    ids = np.arange(shard.start, shard.stop, dtype=np.int64)
    columns = {"id": ids, **_eta_columns(shard, eta), **parameters}
    schema = layout.table_columns("random_effects", eta.shape[1], parameters, units, licence=licence)
    return _write_splits(root, shard, "random_effects", level, schema, partial(_cut, columns))


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
    study: StudyColumns = NO_STUDY,
    own: Mapping[str, NDArray[Any]] = NOTHING,
    given: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[FileRecord, ...]:
    """Write the outcomes of one association level in long format, sorted by id and time, doses before observations.

    Args:
        root, shard, licence: as for :func:`write_subjects`, as are result and errors.
        level: the association level, as written in the configuration.
        times: shape (T,), the observation times of every subject.
        doses: (time, amt, cmt, rate) of every dose, the same for every subject (:class:`PlannedDose`).
        dv: float, finite, shape (len(shard), T), in id order; stored as float32.
        visits: each subject's own times, in the order of ``times``, and whether the visit took place, both
            (len(shard), T). A missed visit keeps its row, without DV and with MDV 1.
        units: of ``time``, ``amt`` and ``dv``.
        observed_compartment: ``cmt`` of the observation rows.
        study, own: as for :func:`write_subjects`.
        given: amount and rate, (len(shard), number of doses) each, that subjects get where arms differ, in the order of
            ``doses``, which ascend in time; a row where a subject gets nothing has EVID 2.
    """
    with np.errstate(over="ignore"):
        dv = np.asarray(dv, np.float32)  # values beyond its range become infinite and fail the check below
    _check(shard, "dv", dv, 2)
    if dv.shape[1] != len(times):
        raise StorageError("outcomes do not fit their times", expected=f"{len(times)} columns", got=dv.shape[1])
    pattern = observation_pattern(times, doses, observed_compartment)
    schema = layout.table_columns(
        "observations", 0, (), units, licence=licence, infusions="rate" in pattern, study=study
    )
    width, in_order = len(pattern["time"]), np.argsort(times, kind="stable")

    def columns(rows: slice) -> dict[str, Any]:
        n = rows.stop - rows.start
        values = np.zeros((n, width), np.float32)
        observed = pattern["evid"] == 0
        values[:, observed] = dv[rows][:, in_order]
        tiled = {name: np.tile(column, n) for name, column in pattern.items()}
        missing = np.tile(~observed, (n, 1))
        if visits:
            moved, attended = (part[rows][:, in_order] for part in visits)
            missing[:, observed] = np.logical_not(attended)
            tiled["time"].reshape(n, width)[:, observed] = moved
        if given:
            amount, rate = (part[rows] for part in given)
            tiled["amt"].reshape(n, width)[:, ~observed] = amount
            tiled["evid"].reshape(n, width)[:, ~observed] = np.where(amount > 0, 1, 2)
            if "rate" in tiled:
                tiled["rate"].reshape(n, width)[:, ~observed] = rate
        tiled |= {name: np.repeat(values[rows], width) for name, values in own.items()}
        ids = np.repeat(np.arange(shard.start + rows.start, shard.start + rows.stop, dtype=np.int64), width)
        mdv = missing.ravel()
        return {"id": ids, **tiled, "dv": pa.array(values.ravel(), mask=mdv), "mdv": mdv.astype(np.int8)}

    return _write_splits(root, shard, "observations", level, schema, columns)


def write_truth(
    root: Root,
    shard: Shard,
    table: str,
    level: float | None,
    *,
    columns: Mapping[str, NDArray[Any]],
    study: StudyColumns,
    times: Sequence[float] = (),
    units: Mapping[str, str] = layout.DEFAULT_UNITS,
    licence: str = "",
) -> tuple[FileRecord, ...]:
    """Write a table in ``truth/`` of one shard: ``columns`` are (len(shard), r), or (len(shard),), r rows a subject.

    Arguments, result and errors as for :func:`write_subjects` and :func:`write_observations`.
    """
    many = {name: values.reshape(len(shard), -1) for name, values in columns.items()}
    width = next(iter(many.values())).shape[1]
    for name, values in many.items():
        _check(shard, name, values, 2)
    schema = layout.table_columns(table, 0, (), units, licence=licence, study=study, times=times)

    def cut(rows: slice) -> dict[str, Any]:
        ids = np.repeat(np.arange(shard.start + rows.start, shard.start + rows.stop, dtype=np.int64), width)
        return {"id": ids, **{name: np.ascontiguousarray(values[rows]).ravel() for name, values in many.items()}}

    return _write_splits(root, shard, table, level, schema, cut)


def observation_pattern(
    times: Sequence[float] | NDArray[np.float64],
    doses: Sequence[tuple[Any, ...]],
    observed_compartment: int = OBSERVED_COMPARTMENT,
) -> dict[str, NDArray[Any]]:
    """Columns time, evid, amt, rate (with infusions only) and cmt of one subject's rows, the same for all subjects."""
    rows = [PlannedDose(*dose) for dose in doses] + [PlannedDose(time, 0.0, observed_compartment) for time in times]
    time, amt, cmt, rate = np.array(rows, np.float64).reshape(-1, 4).T
    evid = np.repeat(np.array([1, 0], np.int8), [len(doses), len(times)])
    order = np.lexsort((evid == 0, time))
    infused = {"rate": rate[order]} if rate.any() else {}
    return {"time": time[order], "evid": evid[order], "amt": amt[order], **infused, "cmt": cmt.astype(np.int8)[order]}


def write_table(root: Root, path: str, table: pa.Table) -> FileRecord:
    """Write a table in one of the schemas of :mod:`storage.dataset.layout` as Parquet; the same rows, the same bytes.

    Pages carry checksums. Each column has statistics, so that a filter on association, split or id skips files.
    """
    names = table.column_names
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in CONSTANT_COLUMNS if name in names],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in ASCENDING_COLUMNS if name in names},
        sorting_columns=[pq.SortingColumn(names.index(name)) for name in ("id", "time") if name in names],
        write_page_checksum=True,
    )
    return root.write_bytes(path, memoryview(sink.getvalue()), rows=table.num_rows)


def fill_columns(
    columns: Mapping[str, Any], schema: pa.Schema, rows: int, *, shard: int, split: str, level: float | None
) -> pa.Table:
    """A table of ``rows`` rows whose columns ``shard``, ``split`` and ``association`` are constant unless given."""
    constants = {"shard": shard, "split": split, "association": level}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(constants[field.name], field.type), rows)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_splits(
    root: Root,
    shard: Shard,
    table: str,
    level: float | None,
    schema: pa.Schema,
    columns: Callable[[slice], Mapping[str, Any]],
) -> tuple[FileRecord, ...]:
    """One file for each split in the shard; ``columns`` gives the values for a slice of the shard's subjects."""
    records = []
    for part in shard.splits:
        values = columns(slice(part.start - shard.start, part.stop - shard.start))
        rows = fill_columns(values, schema, len(values["id"]), shard=shard.index, split=part.split, level=level)
        records.append(write_table(root, layout.table_path(table, shard.index, part.split, level), rows))
    return tuple(records)


def _cut(columns: Mapping[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: column[rows] for name, column in columns.items()}


def _eta_columns(shard: Shard, eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    _check(shard, "eta", eta, 2)
    return dict(zip(layout.eta_columns(eta.shape[1]), np.ascontiguousarray(eta.T), strict=True))


def _check(shard: Shard, what: str, array: NDArray[Any], ndim: int) -> None:
    if array.ndim != ndim or len(array) != len(shard):
        expected = f"{len(shard)} rows in {ndim} dimension{'s' if ndim > 1 else ''}"
        where = f"shard {shard.index}"
        raise StorageError(f"{what} does not fit its shard", where=where, expected=expected, got=array.shape)
    if not np.isfinite(array).all():
        bad = shard.start + int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise StorageError(f"{what} holds numbers that are not finite", where=f"shard {shard.index}, first at id {bad}")
