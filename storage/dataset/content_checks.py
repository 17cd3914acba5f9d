"""Checks of what the files of one shard hold: against the plan, the manifest and each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import ShardManifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.table_reader import read_table
from image_longitudinal.storage.dataset.tables import observation_pattern


class Finding(NamedTuple):
    """Something wrong in one file."""

    path: str
    what: str
    expected: str = ""
    got: str = ""


def check_content(dataset: Dataset, shard: Shard, manifest: ShardManifest) -> Iterator[Finding]:
    """Read the files of a shard, whose hashes match, and yield everything that is wrong in them."""
    if (manifest.start, manifest.stop) != (shard.start, shard.stop):
        expected, got = f"ids {shard.start} to {shard.stop}", f"{manifest.start} to {manifest.stop}"
        yield Finding(layout.shard_manifest_path(shard.index), "holds other subjects", expected, got)
        return
    rows = {file.path: file.rows for file in manifest.files}
    try:
        dataset.images(shard.start, shard.start + 1)
        dataset.images(shard.stop - 1, shard.stop)
    except StorageError as error:
        yield Finding(layout.image_shard_path(shard.index), str(error))
    try:
        latents = dataset.latents(shard.start, shard.stop)
    except StorageError as error:
        yield Finding(layout.latent_shard_path(shard.index), str(error))
        return
    if not np.isfinite(latents).all():
        yield Finding(layout.latent_shard_path(shard.index), "latents that are not finite")
    for part in shard.splits:
        ids = np.arange(part.start, part.stop)
        path = dataset.manifest.table_path("subjects", shard.index, part.split)
        subjects, findings = _read_table(dataset, "subjects", path, rows[path], len(ids))
        yield from findings
        if subjects is None:
            continue
        yield from _check_columns(path, subjects, id=ids, image_index=ids, shard=shard.index, split=part.split)
        eta = _eta(subjects, len(dataset.manifest.random_effects))
        dims = dataset.manifest.eta_latents
        if dims is not None and not np.array_equal(eta.astype(np.float32), latents[ids - shard.start][:, list(dims)]):
            yield Finding(path, "random effects are not the image's", f"latent dimensions {list(dims)}")
        for level in dataset.levels:
            yield from _check_random_effects(dataset, shard, level, part.split, ids, rows, eta)
            yield from _check_observations(dataset, shard, level, part.split, ids, rows)


def _check_random_effects(
    dataset: Dataset,
    shard: Shard,
    level: float,
    split: str,
    ids: NDArray[Any],
    rows: dict[str, int | None],
    linked: NDArray[Any],
) -> Iterator[Finding]:
    path = dataset.manifest.table_path("random_effects", shard.index, split, level)
    table, findings = _read_table(dataset, "random_effects", path, rows[path], len(ids))
    yield from findings
    if table is None:
        return
    constants = {"association": level, "split": split}
    yield from _check_columns(
        path, table, id=ids, **{name: value for name, value in constants.items() if name in table.column_names}
    )
    for name in table.column_names:
        if name != "split" and not np.isfinite(_numpy(table, name)).all():
            yield Finding(path, f"{name} holds numbers that are not finite")
    if level == 1.0 and not np.array_equal(_eta(table, linked.shape[1]), linked):
        yield Finding(path, "random effects differ from the image's at full association")


def _check_observations(
    dataset: Dataset, shard: Shard, level: float, split: str, ids: NDArray[Any], rows: dict[str, int | None]
) -> Iterator[Finding]:
    pattern = observation_pattern(dataset.manifest.times, dataset.manifest.doses)
    pattern.pop("cmt")  # the outcome model chooses it on observation rows
    width = len(pattern["time"])
    path = dataset.manifest.table_path("observations", shard.index, split, level)
    table, findings = _read_table(dataset, "observations", path, rows[path], len(ids) * width)
    yield from findings
    if table is None:
        return
    tiled = {name: np.tile(column, len(ids)) for name, column in pattern.items()}
    dosed, dv = tiled["evid"] == 1, table["dv"].combine_chunks()
    visits = dataset.manifest.config.get("outcomes", {})
    jitter, irregular = visits.get("jitter", 0.0), visits.get("missed", 0.0) or visits.get("dropout", 0.0)
    missing = np.asarray(dv.is_null())
    expected = missing | dosed if irregular else dosed
    if jitter:
        planned, times = tiled.pop("time"), _numpy(table, "time")
        if (np.abs(times - planned) > np.where(dosed, 0.0, jitter * (1 + 1e-9))).any():
            yield Finding(path, "a visit is not near its time", f"within {jitter:g}")
    yield from _check_columns(
        path, table, id=np.repeat(ids, width), **tiled, mdv=expected.astype(np.int8), association=level, split=split
    )
    if not np.array_equal(missing, expected) or not np.isfinite(np.asarray(dv)[~expected]).all():
        yield Finding(path, "dv is not a finite number on exactly the observation rows")


def _read_table(
    dataset: Dataset, name: str, path: str, recorded: int | None, expected: int
) -> tuple[pa.Table | None, list[Finding]]:
    """The table, or None and what is wrong with it."""
    try:
        table = read_table(dataset.root, path)
    except StorageError as error:
        return None, [Finding(path, "cannot be read as Parquet", got=str(error))]
    schema = dataset.schema(name)
    if not table.schema.equals(schema) or _units(table.schema) != _units(schema):  # not the descriptions
        return None, [Finding(path, "wrong columns", ", ".join(map(str, schema)), ", ".join(map(str, table.schema)))]
    if not expected == table.num_rows == recorded:
        return None, [Finding(path, "wrong number of rows", f"{expected}, recorded {recorded}", str(table.num_rows))]
    return table, []


def _units(schema: pa.Schema) -> list[bytes | None]:
    return [(field.metadata or {}).get(b"unit") for field in schema]


def _check_columns(path: str, table: pa.Table, **expected: Any) -> Iterator[Finding]:
    """Columns against an array of the same length or one value for all rows."""
    for name, values in expected.items():
        if isinstance(values, str):
            wrong = np.flatnonzero(np.asarray(pc.not_equal(table[name], values)))
        else:
            wrong = np.flatnonzero(_numpy(table, name) != values)
        if not wrong.size:
            continue
        row = int(wrong[0])
        should = values if np.ndim(values) == 0 else values[row]
        what = f"column {name} is wrong in {wrong.size} rows, first in row {row}"
        yield Finding(path, what, str(should), str(table[name][row]))


def _numpy(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].combine_chunks())


def _eta(table: pa.Table, n: int) -> NDArray[Any]:
    return np.stack([_numpy(table, name) for name in layout.eta_columns(n)], axis=1)
