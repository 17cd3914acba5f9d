"""Verification of a published data set: every byte against its record, and the records against each other.

What the root manifest says is compared in :mod:`storage.dataset.consistency`.
"""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.consistency import contradictions
from image_longitudinal.storage.dataset.manifest import (
    RootManifest,
    ShardManifest,
    read_root_manifest,
    read_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.study_columns import POTENTIAL
from image_longitudinal.storage.dataset.table_reader import read_table
from image_longitudinal.storage.dataset.tables import observation_pattern
from image_longitudinal.storage.io.root import FileRecord, Root


@dataclass(frozen=True)
class Problem:
    """One file that is not as it should be. ``shard`` is None for files outside the shards."""

    path: str
    what: str
    shard: int | None = None
    expected: str = ""
    got: str = ""

    def __str__(self) -> str:
        place = self.path if self.shard is None else f"{self.path} (shard {self.shard})"
        details = (("expected", self.expected), ("got", self.got))
        return f"{place}: {self.what}" + "".join(f"; {name} {value}" for name, value in details if value)


@dataclass(frozen=True)
class VerificationReport:
    """What a verification checked, and the problems it found."""

    url: str
    subjects: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]
    bad_shards: tuple[int, ...] = ()  # regenerating these repairs every problem inside shards
    regenerated: tuple[int, ...] = ()  # ids of subjects that were generated again and compared
    not_checked: str | None = None  # what could not be checked, and why

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def require_ok(self, do: str | None = None) -> None:
        """Raise FaultsFoundError, which holds this report, if there is a problem; ``do`` says what to do."""
        if not self.ok:
            error = FaultsFoundError(
                f"{len(self.problems)} problems found; the first: {self.problems[0]}", where=self.url, do=do
            )
            error.report = self
            raise error

    def __str__(self) -> str:
        seen = f"{self.url}: {self.subjects} subjects, {self.files} files, {self.bytes / 1e6:.1f} MB"
        if self.regenerated:
            seen += f", {len(self.regenerated)} subjects generated again"
        if self.not_checked:
            seen += f" ({self.not_checked})"
        if self.ok:
            return f"{seen}: all as recorded"
        return "\n".join([f"{seen}: {len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)])


class FaultsFoundError(StorageError):
    """A verification found problems; ``report`` lists them all."""

    exit_status = 3
    report: VerificationReport | None = None


_Checked = tuple[tuple[FileRecord, ...], list[Problem]]


def verify_dataset(
    root: Root,
    *,
    manifest: RootManifest | None = None,
    progress: Callable[[int, int], object] | None = None,
    workers: int = 2,
    ignored: Collection[str] = (),
) -> VerificationReport:
    """Check presence, size and SHA-256 of every file of a data set, then the content of the files.

    The files of a shard that are all intact are also read: schemas, row counts, ids against the plan, the Zarr arrays
    and the other tables, times and doses, value ranges. All latents are read, and the first and last image of each
    shard (hashes cover the others).

    Args:
        root: where the data set is.
        manifest: of a data set about to be published; None for the published one.
        progress: called with (shards checked, shards in all) after each shard.
        workers: threads; each holds one shard's tables at a time.
        ignored: files that may exist and are not checked, because they are about to be written.

    Raises:
        StorageError: there is no published data set to verify, or its root manifest is damaged.
    """
    manifest = manifest or read_root_manifest(root)
    dataset = Dataset(root, manifest)
    problems = [problem for file in manifest.files for problem in check_file(root, file, None)]
    problems += [
        Problem(layout.ROOT_MANIFEST, f"contradicts {what}", None, _short(expected), _short(got))
        for what, expected, got in contradictions(root, manifest, {problem.path for problem in problems})
    ]
    seen = [*manifest.files]
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
        if path not in known and path not in ignored and not (is_temporary(path) or _shard_of(path) in bad):
            problems.append(Problem(path, "unexpected file"))
    return VerificationReport(
        url=root.url,
        subjects=manifest.n_subjects,
        files=len(seen) + len(listed) + 1,
        bytes=sum(file.bytes for file in (*seen, *manifest.shards)),
        problems=tuple(problems),
        bad_shards=bad,
    )


def _check_shard(dataset: Dataset, shard: Shard, listed: dict[str, FileRecord]) -> _Checked:
    """The files that a shard's manifest lists, and all problems of the shard."""
    root, path = dataset.root, layout.shard_manifest_path(shard.index)
    recorded = listed.get(path)
    if recorded is None:
        return (), [Problem(path, "not listed in the root manifest", shard.index)]
    problems = check_file(root, recorded, shard.index)
    try:
        manifest = read_shard_manifest(root, shard.index)
    except StorageError as error:
        return (), problems or [Problem(path, str(error), shard.index)]
    if manifest is None:
        return (), problems
    if problems:
        return manifest.files, problems
    if expected := sorted(dataset.manifest.shard_files(shard) ^ {file.path for file in manifest.files}):
        problems.append(Problem(path, "its files are not those of the plan", shard.index, got=", ".join(expected)))
    for file in manifest.files:
        problems += check_file(root, file, shard.index)
    if not problems:
        problems = [replace(problem, shard=shard.index) for problem in _check_content(dataset, shard, manifest)]
    return manifest.files, problems


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def check_file(root: Root, file: FileRecord, shard: int | None) -> list[Problem]:
    """Presence, size and SHA-256 of one file: the first of them that is wrong, or nothing."""
    try:
        size = root.size(file.path)
        if size is None:
            return [Problem(file.path, "missing", shard, f"{file.bytes} bytes")]
        if size != file.bytes:
            return [Problem(file.path, "wrong size", shard, f"{file.bytes} bytes", f"{size} bytes")]
        digest = root.sha256(file.path)
    except StorageError as error:
        return [Problem(file.path, str(error), shard)]
    if digest != file.sha256:
        return [Problem(file.path, "bytes are not as written", shard, f"sha256 {file.sha256}", digest)]
    return []


def _shard_of(path: str) -> int | None:
    """The shard that a file of the layout belongs to, by its name."""
    name = path.rsplit("/", 1)[-1]
    digits = name.removeprefix("part-").split(".")[0]
    if path.startswith(f"{layout.IMAGES}/"):
        parts = path.split("/")
        digits = parts[3] if len(parts) > 3 and parts[2] == "c" else ""
    return int(digits) if digits.isdigit() else None


def _check_content(dataset: Dataset, shard: Shard, manifest: ShardManifest) -> Iterator[Problem]:
    """Read the files of a shard, whose hashes match, and yield everything that is wrong in them."""
    if (manifest.start, manifest.stop) != (shard.start, shard.stop):
        expected, got = f"ids {shard.start} to {shard.stop}", f"{manifest.start} to {manifest.stop}"
        yield Problem(layout.shard_manifest_path(shard.index), "holds other subjects", expected=expected, got=got)
        return
    rows = {file.path: file.rows for file in manifest.files}
    try:
        dataset.images[shard.start : shard.start + 1]
        dataset.images[shard.stop - 1 : shard.stop]
    except StorageError as error:
        yield Problem(layout.image_shard_path(shard.index), str(error))
    try:
        latents = dataset.latents[shard.start : shard.stop]
    except StorageError as error:
        yield Problem(layout.latent_shard_path(shard.index), str(error))
        return
    if not np.isfinite(latents).all():
        yield Problem(layout.latent_shard_path(shard.index), "latents that are not finite")
    for part in shard.splits:
        ids = np.arange(part.start, part.stop)
        path = dataset.manifest.table_path("subjects", shard.index, part.split)
        subjects = _read_table(dataset, "subjects", path, rows[path], len(ids))
        if isinstance(subjects, Problem):
            yield subjects
            continue
        yield from _check_columns(path, subjects, id=ids, image_index=ids, shard=shard.index, split=part.split)
        eta = _eta(subjects, len(dataset.manifest.random_effects))
        carried = [field.name for field in dataset.manifest.study_columns.of_observations()]
        arm = _numpy(subjects, "arm") if "arm" in carried else None
        if arm is not None and not (arm < len(dataset.arms)).all():
            yield Problem(path, "arms that the data set does not have", expected=", ".join(dataset.arms))
            continue
        dims = dataset.manifest.eta_latents
        if dims is not None and not np.array_equal(eta.astype(np.float32), latents[ids - shard.start][:, list(dims)]):
            yield Problem(path, "random effects are not the image's", expected=f"latent dimensions {list(dims)}")
        taken: dict[float | None, NDArray[Any]] = {}  # observed outcomes (n, T) by level, to compare with the potential
        for level in dataset.levels:
            path = dataset.manifest.table_path("random_effects", shard.index, part.split, level)
            table = _read_table(dataset, "random_effects", path, rows[path], len(ids))
            if isinstance(table, Problem):
                yield table
            else:
                full = level == 1.0 and not dataset.manifest.has_own_associations
                yield from _check_effects(path, table, ids, eta if full else None, association=level, split=part.split)
            path = dataset.manifest.table_path("observations", shard.index, part.split, level)
            width = dataset.manifest.rows_of_a_subject("observations")
            observed = _read_table(dataset, "observations", path, rows[path], len(ids) * width)
            if isinstance(observed, Problem):
                yield observed
                continue
            own = {name: np.repeat(_numpy(subjects, name), width) for name in carried}
            yield from _check_observations(
                dataset, path, observed, ids, arm, association=level, split=part.split, **own
            )
            if arm is not None:
                taken[level] = _observed_outcomes(observed, len(ids))
        for name in dataset.manifest.study_columns.truth:
            for chosen in dataset.levels if layout.has_levels(name) else (None,):
                path = dataset.manifest.table_path(name, shard.index, part.split, chosen)
                many = dataset.manifest.rows_of_a_subject(name)
                table = _read_table(dataset, name, path, rows[path], len(ids) * many)
                if isinstance(table, Problem):
                    yield table
                    continue
                yield from _check_truth(path, table, ids, many, part.split)
                if name == POTENTIAL and arm is not None and chosen in taken:
                    yield from _check_taken(path, table, taken[chosen], arm)


def _check_effects(
    path: str, table: pa.Table, ids: NDArray[Any], linked: NDArray[Any] | None, **constants: Any
) -> Iterator[Problem]:
    """``linked``: the random effects of the image, if the image explains all of those in the table."""
    present = {name: value for name, value in constants.items() if name in table.column_names}  # not in version 1
    yield from _check_columns(path, table, id=ids, **present)
    for name in table.column_names:
        if name != "split" and not np.isfinite(_numpy(table, name)).all():
            yield Problem(path, f"{name} holds numbers that are not finite")
    if linked is not None and not np.array_equal(_eta(table, linked.shape[1]), linked):
        yield Problem(path, "random effects differ from the image's at full association")


def _check_observations(
    dataset: Dataset, path: str, table: pa.Table, ids: NDArray[Any], taken: NDArray[Any] | None, /, **constants: Any
) -> Iterator[Problem]:
    slots = dataset.manifest.dose_slots
    pattern = observation_pattern(dataset.manifest.times, slots.slots)
    pattern.pop("cmt")  # the outcome model chooses it on observation rows
    tiled = {name: np.tile(column, len(ids)) for name, column in pattern.items()}
    dosed, dv = tiled["evid"] == 1, table["dv"].combine_chunks()
    visits = dataset.manifest.config.get("outcomes", {})
    jitter, irregular = visits.get("jitter", 0.0), visits.get("missed", 0.0) or visits.get("dropout", 0.0)
    if taken is not None:
        amount, rate = slots.given(taken)
        tiled["amt"][dosed], tiled["evid"][dosed] = amount.ravel(), np.where(amount > 0, 1, 2).ravel()
        if "rate" in tiled:
            tiled["rate"][dosed] = rate.ravel()
    missing = np.asarray(dv.is_null())
    expected = missing | dosed if irregular else dosed
    if jitter:
        planned, times = tiled.pop("time"), _numpy(table, "time")
        if (np.abs(times - planned) > np.where(dosed, 0.0, jitter * (1 + 1e-9))).any():
            yield Problem(path, "a visit is not near its time", expected=f"within {jitter:g}")
    columns = {"id": np.repeat(ids, len(pattern["evid"])), **tiled, "mdv": expected.astype(np.int8)}
    yield from _check_columns(path, table, **columns, **constants)
    if not np.array_equal(missing, expected) or not np.isfinite(np.asarray(dv)[~expected]).all():
        yield Problem(path, "dv is not a finite number on exactly the observation rows")


def _observed_outcomes(observed: pa.Table, n: int) -> NDArray[Any]:
    """The outcomes (n, T) in a table of observations; NaN at missed visits."""
    seen = np.asarray(observed["evid"].combine_chunks()) == 0
    return np.asarray(observed["dv"].combine_chunks())[seen].reshape(n, -1)


def _check_taken(path: str, potential: pa.Table, dv: NDArray[Any], arm: NDArray[Any]) -> Iterator[Problem]:
    """The observed outcomes (n, T) of subjects are the potential ones of the arm taken (n,), bit for bit."""
    names = [name for name in potential.column_names if name.startswith("dv_")]
    every = np.stack([_numpy(potential, name) for name in names], axis=1).reshape(len(arm), -1, len(names))
    if (wrong := np.flatnonzero(((dv != every[np.arange(len(arm)), arm]) & np.isfinite(dv)).any(1))).size:
        yield Problem(path, f"{wrong.size} subjects have other outcomes than in the arm they take")


def _check_truth(path: str, table: pa.Table, ids: NDArray[Any], many: int, split: str) -> Iterator[Problem]:
    arms = {"arm": np.tile(np.arange(many), len(ids))} if "arm" in table.column_names else {}
    yield from _check_columns(path, table, id=np.repeat(ids, many), split=split, **arms)
    for name in table.column_names:
        if name != "split" and not np.isfinite(_numpy(table, name)).all():
            yield Problem(path, f"{name} holds numbers that are not finite")


def _read_table(dataset: Dataset, name: str, path: str, recorded: int | None, expected: int) -> pa.Table | Problem:
    try:
        table = read_table(dataset.root, path)
    except StorageError as error:
        return Problem(path, "cannot be read as Parquet", got=str(error))
    schema, found = dataset.schema(name), table.schema
    if not found.equals(schema) or _units(found) != _units(schema):  # descriptions may differ
        return Problem(path, "wrong columns", None, ", ".join(map(str, schema)), ", ".join(map(str, found)))
    if (licence := (found.metadata or {}).get(b"licence", b"").decode()) not in ("", dataset.manifest.licence):
        return Problem(path, "another licence than the data set's", None, dataset.manifest.licence, licence)
    if not expected == table.num_rows == recorded:
        return Problem(path, "wrong number of rows", None, f"{expected}, recorded {recorded}", str(table.num_rows))
    return table


def _units(schema: pa.Schema) -> list[bytes | None]:
    return [(field.metadata or {}).get(b"unit") for field in schema]


def _check_columns(path: str, table: pa.Table, /, **expected: Any) -> Iterator[Problem]:
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
        yield Problem(path, what, expected=str(should), got=str(table[name][row]))


def _numpy(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].combine_chunks())


def _eta(table: pa.Table, n: int) -> NDArray[Any]:
    return np.stack([_numpy(table, name) for name in layout.eta_columns(n)], axis=1)
