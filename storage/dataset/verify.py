"""Verification of a published data set: every byte against its record, and the records against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import (
    RootManifest,
    ShardManifest,
    read_root_manifest,
    read_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.tables import observation_pattern
from image_longitudinal.storage.io.root import FileRecord, Root

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all) after each shard."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be. ``shard`` is None for files outside the shards."""

    path: str
    what: str
    shard: int | None = None
    expected: str = ""
    got: str = ""

    def __str__(self) -> str:
        place = self.path if self.shard is None else f"{self.path} (shard {self.shard})"
        detail = "; ".join(
            f"{name} {value}" for name, value in (("expected", self.expected), ("got", self.got)) if value
        )
        return f"{place}: {self.what}" + (f"; {detail}" if detail else "")


@dataclass(frozen=True)
class VerificationReport:
    """What a verification looked at and found."""

    url: str
    subjects: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]
    bad_shards: tuple[int, ...] = field(default=())  # regenerating exactly these mends every problem inside shards
    made_again: tuple[int, ...] = ()  # ids of subjects that were made again and compared
    remark: str | None = None  # what could not be looked at, and why

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        seen = f"{self.url}: {self.subjects} subjects, {self.files} files, {self.bytes / 1e6:.1f} MB"
        if self.made_again:
            seen += f", {len(self.made_again)} subjects made again"
        if self.remark:
            seen += f" ({self.remark})"
        if self.ok:
            return f"{seen}: all as recorded"
        return "\n".join([f"{seen}: {len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)])


def verify_dataset(
    root: Root, *, manifest: RootManifest | None = None, progress: Progress | None = None, workers: int = 2
) -> VerificationReport:
    """Check a data set: presence, size and SHA-256 of every file; then what is in them.

    A shard whose files are all intact is also read: schemas, row counts, ids aligned with the plan, the Zarr arrays and
    between tables, times and doses, value ranges. All latents are read, and the first and last image of each shard (the
    others are covered by their hashes).

    Args:
        root: where the data set is.
        manifest: of a data set about to be published; the published one's if None.
        progress: told after each shard.
        workers: threads; each holds one shard's tables at a time.

    Raises:
        StorageError: if there is no published data set to verify, or its root manifest is damaged.
    """
    manifest = manifest or read_root_manifest(root)
    dataset = Dataset(root, manifest)
    problems = [problem for file in manifest.files for problem in _check_file(root, file, None)]
    seen = [*manifest.files]
    if len(manifest.shards) != manifest.plan.n_shards:
        expected, got = f"{manifest.plan.n_shards} shards", str(len(manifest.shards))
        problems.append(Problem(layout.ROOT_MANIFEST, "wrong number of shards", None, expected, got))
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        listed = {file.path: file for file in manifest.shards}
        jobs = pool.map(lambda shard: _check_shard(dataset, shard, listed), manifest.plan)
        for done, (files, found) in enumerate(jobs, 1):
            seen += files
            problems += found
            if progress:
                progress(done, manifest.plan.n_shards)
    known = {file.path for file in seen} | listed.keys()
    known |= {layout.ROOT_MANIFEST, layout.RUN_FILE, layout.LEASE, layout.HUB_FILE}
    bad = tuple(sorted({problem.shard for problem in problems if problem.shard is not None}))
    for path in root.files():
        if path not in known and not (is_temporary(path) or _shard_of(path) in bad):
            problems.append(Problem(path, "unexpected file"))
    return VerificationReport(
        url=root.url,
        subjects=manifest.n_subjects,
        files=len(seen) + len(listed) + 1,
        bytes=sum(file.bytes for file in (*seen, *manifest.shards)),
        problems=tuple(problems),
        bad_shards=bad,
    )


def _check_shard(
    dataset: Dataset, shard: Shard, listed: dict[str, FileRecord]
) -> tuple[tuple[FileRecord, ...], list[Problem]]:
    """The files a shard's manifest names, and everything wrong with the shard."""
    root, path = dataset.root, layout.shard_manifest_path(shard.index)
    recorded = listed.get(path)
    if recorded is None:
        return (), [Problem(path, "not listed in the root manifest", shard.index)]
    problems = _check_file(root, recorded, shard.index)
    try:
        manifest = read_shard_manifest(root, shard.index)
    except StorageError as error:
        return (), problems or [Problem(path, str(error), shard.index)]
    if manifest is None:
        return (), problems
    if problems:
        return manifest.files, problems
    if expected := sorted(layout.shard_files(shard, dataset.levels) ^ {file.path for file in manifest.files}):
        problems.append(Problem(path, "its files are not those of the plan", shard.index, got=", ".join(expected)))
    for file in manifest.files:
        problems += _check_file(root, file, shard.index)
    if not problems:
        problems = [
            Problem(where, what, shard.index, expected, got)
            for where, what, expected, got in _check_content(dataset, shard, manifest)
        ]
    return manifest.files, problems


def _check_file(root: Root, file: FileRecord, shard: int | None) -> list[Problem]:
    try:
        size = root.size(file.path)
        if size is None:
            return [Problem(file.path, "missing", shard, expected=f"{file.bytes} bytes")]
        if size != file.bytes:
            return [Problem(file.path, "wrong size", shard, f"{file.bytes} bytes", f"{size} bytes")]
        digest = root.sha256(file.path)
    except StorageError as error:
        return [Problem(file.path, str(error), shard)]
    if digest != file.sha256:
        return [Problem(file.path, "bytes are not as written", shard, f"sha256 {file.sha256}", digest)]
    return []


Finding = tuple[str, str, str, str]  # path, what, expected, got


def _check_content(dataset: Dataset, shard: Shard, manifest: ShardManifest) -> Iterator[Finding]:
    if (manifest.start, manifest.stop) != (shard.start, shard.stop):
        expected, got = f"ids {shard.start} to {shard.stop}", f"{manifest.start} to {manifest.stop}"
        yield layout.shard_manifest_path(shard.index), "holds other subjects", expected, got
        return
    rows = {file.path: file.rows for file in manifest.files}
    try:
        dataset.images(shard.start, shard.start + 1)
        dataset.images(shard.stop - 1, shard.stop)
    except StorageError as error:
        yield layout.image_shard_path(shard.index), str(error), "", ""
    try:
        latents = dataset.latents(shard.start, shard.stop)
    except StorageError as error:
        yield layout.latent_shard_path(shard.index), str(error), "", ""
        return
    if not np.isfinite(latents).all():
        yield layout.latent_shard_path(shard.index), "latents that are not finite", "", ""
    for part in shard.splits:
        ids = np.arange(part.start, part.stop)
        path = layout.subjects_path(shard.index, part.split)
        subjects, findings = _read_table(dataset, "subjects", path, rows[path], len(ids))
        yield from findings
        if subjects is None:
            continue
        yield from _check_columns(path, subjects, id=ids, image_index=ids, shard=shard.index, split=part.split)
        eta = _eta(subjects, len(dataset.manifest.random_effects))
        entries = dataset.manifest.eta_latents
        if entries is not None and not np.array_equal(
            eta.astype(np.float32), latents[ids - shard.start][:, list(entries)]
        ):
            yield path, "random effects are not the image's", f"latent entries {list(entries)}", "other numbers"
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
    path = layout.random_effects_path(level, shard.index, split)
    table, findings = _read_table(dataset, "random_effects", path, rows[path], len(ids))
    yield from findings
    if table is None:
        return
    yield from _check_columns(path, table, id=ids)
    for name in table.column_names[1:]:
        if not np.isfinite(_numpy(table, name)).all():
            yield path, f"{name} holds numbers that are not finite", "", ""
    if level == 1.0 and not np.array_equal(_eta(table, linked.shape[1]), linked):
        yield path, "random effects differ from the image's at full association", "equal numbers", "other numbers"


def _check_observations(
    dataset: Dataset, shard: Shard, level: float, split: str, ids: NDArray[Any], rows: dict[str, int | None]
) -> Iterator[Finding]:
    pattern = observation_pattern(dataset.manifest.times, dataset.manifest.doses)
    pattern.pop("cmt")  # the outcome model's own choice on observation rows
    width = len(pattern["time"])
    path = layout.observations_path(level, shard.index, split)
    table, findings = _read_table(dataset, "observations", path, rows[path], len(ids) * width)
    yield from findings
    if table is None:
        return
    tiled = {name: np.tile(column, len(ids)) for name, column in pattern.items()}
    dosed, dv = tiled["evid"] == 1, table["dv"].combine_chunks()
    visits = dataset.manifest.config.get("outcomes", {})
    jitter, some_missed = visits.get("jitter", 0.0), visits.get("missed", 0.0) or visits.get("dropout", 0.0)
    missing = np.asarray(dv.is_null())
    expected = missing | dosed if some_missed else dosed
    if jitter:
        planned, times = tiled.pop("time"), _numpy(table, "time")
        if (np.abs(times - planned) > np.where(dosed, 0.0, jitter * (1 + 1e-9))).any():
            yield path, "a visit is not near its time", f"within {jitter:g}", ""
    yield from _check_columns(
        path, table, id=np.repeat(ids, width), **tiled, mdv=expected.astype(np.int8), association=level, split=split
    )
    if not np.array_equal(missing, expected) or not np.isfinite(np.asarray(dv)[~expected]).all():
        yield path, "dv is not a finite number on exactly the observation rows", "", ""


def _read_table(
    dataset: Dataset, name: str, path: str, recorded: int | None, expected: int
) -> tuple[pa.Table | None, list[Finding]]:
    """The table if it can be trusted further, and what is wrong with it."""
    try:
        table = pq.ParquetFile(pa.BufferReader(dataset.root.read_bytes(path))).read()
    except (StorageError, pa.ArrowException, OSError) as error:
        return None, [(path, "cannot be read as Parquet", "", str(error))]
    schema = dataset.schema(name)
    if not table.schema.equals(schema) or _units(table.schema) != _units(schema):  # words may differ: hashes cover them
        return None, [(path, "wrong columns", ", ".join(map(str, schema)), ", ".join(map(str, table.schema)))]
    if not expected == table.num_rows == recorded:
        return None, [(path, "wrong number of rows", f"{expected}, recorded {recorded}", str(table.num_rows))]
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
        yield (
            path,
            f"column {name} is wrong in {wrong.size} rows, first in row {row}",
            str(should),
            str(table[name][row]),
        )


def _numpy(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].combine_chunks())


def _eta(table: pa.Table, n: int) -> NDArray[Any]:
    return np.stack([_numpy(table, name) for name in layout.eta_columns(n)], axis=1)


def _shard_of(path: str) -> int | None:
    """The shard that a file of the layout belongs to, by its name."""
    name = path.rsplit("/", 1)[-1]
    digits = name.removeprefix("part-").split(".")[0]
    if path.startswith(f"{layout.IMAGES}/"):
        parts = path.split("/")
        digits = parts[3] if len(parts) > 3 and parts[2] == "c" else ""
    return int(digits) if digits.isdigit() else None
