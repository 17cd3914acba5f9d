"""Empirical Bayes estimates: each subject's most likely random effects given observations and population.

In memory, or from Parquet to Parquet for any number of subjects in bounded memory, resumable.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.files import make_folder, replacing
from image_longitudinal.models.nlme.data.cells import is_number
from image_longitudinal.models.nlme.data.nmtran_reader import ObservationTable, Source, open_observations
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import starting_points
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.kernels.codegen import solver_digest
from image_longitudinal.models.nlme.model.population import PopulationModel

FloatArray = NDArray[np.float64]
VERSION = 1  # raise it if the same observations and model give other estimates
KEY, CHECKSUM = "key", "checksum"  # of a part, in its metadata


@dataclass(frozen=True, eq=False)
class EmpiricalBayes:
    """Modes of the individual posteriors.

    ``eta`` (n, k); ``joint`` (n,): minus the joint log-density of observations and random effects there, without the
    constants in 2π and |Ω|; ``converged`` (n,): whether the search ended at a mode.
    """

    eta: FloatArray
    joint: FloatArray
    converged: NDArray[np.bool_]


@dataclass(frozen=True)
class EbeFile:
    """A finished file of estimates.

    Number of ``subjects``, of searches that did ``not_converge``, and of subjects ``reused`` from an earlier run.
    """

    path: Path
    subjects: int
    not_converged: int
    reused: int


def empirical_bayes(
    model: PopulationModel, observed: ArrayLike, *, starts: ArrayLike | None = None, n_threads: int = 1
) -> EmpiricalBayes:
    """As :func:`individual_modes`, for observations (n, T) under the model's own design.

    Raises:
        ConfigError: observations that are missing or do not fit the design.
    """
    data = PopulationData.of_design(model.structural, observed, model.design.times, model.design.doses)
    return individual_modes(model, data, starts=starts, n_threads=n_threads)


def individual_modes(
    model: PopulationModel, data: PopulationData, *, starts: ArrayLike | None = None, n_threads: int = 1
) -> EmpiricalBayes:
    """Estimates for the subjects of ``data``.

    The individual objective has several minima: each search explores several starts and finishes in the deepest valley.
    A subject's result depends on its own observations alone, so a large population may be cut into chunks.

    Args:
        starts: (S, k) starts in addition to 0; spread over the prior if None.
        n_threads: the result does not depend on it.
    """
    values = PopulationParameters.of(model)
    objective = Objective(model, data, n_threads=n_threads)
    joint, converged = objective.find_modes(values, starting_points(values.omega) if starts is None else starts)
    return EmpiricalBayes(objective.eta, joint, converged)


def stream_ebes(
    model: PopulationModel, observations: Source | ObservationTable, output: str | Path, *,
    part_size: int = 10_000, n_threads: int = 1, progress: Callable[[int], None] | None = None,
) -> EbeFile:  # fmt: skip
    """Estimate every subject's random effects under a given population model.

    A subject's row depends on its own observations and the model alone: the file is the same for any number of threads,
    any part size and after any restart. A finished part is stored beside the output under the digest of its
    observations and the model: a stopped run resumes, and a run on changed input recomputes only the changed parts.

    Args:
        observations: a table that has been opened for the model's equations, or what
            :func:`models.nlme.data.nmtran_reader.open_observations` opens.
        output: the Parquet file to write: ``id``, one column per random effect, ``joint`` (minus the joint log-density
            at the mode, without constants) and ``converged``. Its folder must exist.
        part_size: subjects per part; memory grows with it, not with the population.
        n_threads: the result does not depend on it (the compiled kernels run without Python's lock).
        progress: called with the number of subjects done.

    Raises:
        ConfigError: an unusable table (names the row); a subject whose rows are not together.
        SimulationError: a subject for which no start of the search can be evaluated.
    """
    if isinstance(observations, ObservationTable):
        table = observations
    else:
        table = open_observations(observations, model.structural)
    target = Path(output)
    if not target.parent.is_dir():
        raise ConfigError("no such folder for the estimates", got=target.parent)
    parts = target.with_name(f".{target.name}.parts")
    if target.exists():
        keys = [_key(model, rows, table) for rows in table.pieces(part_size)]
        if _is_finished(target, digest_of(keys)):
            shutil.rmtree(parts, ignore_errors=True)
            return _summary(target, reused=pq.read_metadata(target).num_rows)
    make_folder(parts)
    keys, first_row, subjects, reused = [], 0, 0, 0
    for rows in table.pieces(part_size):
        key = _key(model, rows, table)
        part = parts / f"{key}.parquet"
        if _is_finished(part, key):
            count = pq.read_metadata(part).num_rows
            reused += count
        else:
            data = table.population(rows, first_row)
            count = len(data)
            _write(part, key, [_estimates(model, data.names, individual_modes(model, data, n_threads=n_threads))])
        keys.append(key)
        first_row, subjects = first_row + rows.num_rows, subjects + count
        if progress:
            progress(subjects)
    if not keys:
        raise ConfigError("a table of observations has no rows", where=f"for {target.name}")
    files = [parts / f"{key}.parquet" for key in keys]
    _check_ids(files)
    _write(target, digest_of(keys), (pq.read_table(file) for file in files))
    shutil.rmtree(parts, ignore_errors=True)
    return _summary(target, reused=reused)


def _key(model: PopulationModel, rows: pa.Table, table: ObservationTable) -> str:
    """Digest of all inputs of the estimates of these rows."""
    content = hashlib.blake2b(digest_size=16)
    for name in rows.column_names:
        content.update(name.encode())
        if is_number(rows[name].type):
            content.update(rows[name].cast(pa.float64()).fill_null(np.nan).to_numpy())
        else:
            content.update(json.dumps(rows[name].cast(pa.string()).to_pylist()).encode())
    values = PopulationParameters.of(model)
    numbers = [array.tolist() for array in (values.mu, values.omega, values.error)]
    shapes = [[p.name, p.distribution, p.random] for p in model.parameters]
    kinds, solver = [r.kind for r in model.residuals], solver_digest(model.structural)
    return digest_of("ebes", VERSION, solver, shapes, kinds, numbers, table.reading.interpolation, content.hexdigest(),
                     *table.found.rules)  # fmt: skip


def _estimates(model: PopulationModel, ids: NDArray[np.int64] | NDArray[np.str_], found: EmpiricalBayes) -> pa.Table:
    if not np.isfinite(found.joint).all():
        subject = ids[int(np.argmin(np.isfinite(found.joint)))]
        what = f"model {model.name!r} could not be evaluated anywhere near subject {subject}"
        raise SimulationError(what, do="check its rows")
    effects = dict(zip(model.random_effect_names, np.ascontiguousarray(found.eta.T), strict=True))
    return pa.table({"id": ids, **effects, "joint": found.joint, "converged": found.converged})


def _write(path: Path, key: str, tables: Iterable[pa.Table]) -> None:
    """A Parquet file with its key, a checksum of its rows and one row group per table; appears whole or not at all."""
    remaining = iter(tables)
    first, checksum = next(remaining), 0
    options = {"compression": "zstd", "use_dictionary": False}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, first.schema, **options) as writer:
        for table in chain([first], remaining):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            checksum = _checksum(table, checksum)
        writer.add_key_value_metadata({KEY: key, CHECKSUM: str(checksum)})


def _checksum(table: pa.Table, before: int = 0) -> int:
    """CRC-32 of the rows of a table, after those ``before``."""
    for name in table.column_names:
        column = table[name].to_numpy()
        before = zlib.crc32(column.tobytes(), zlib.crc32(f"{name} {column.dtype}".encode(), before))
    return before


def _is_finished(path: Path, key: str) -> bool:
    """Whether a file exists, has that key and is as it was written."""
    try:
        file = pq.ParquetFile(path)
        metadata = file.metadata.metadata or {}
        if metadata.get(KEY.encode()) != key.encode():
            return False
        checksum = 0
        for group in range(file.num_row_groups):
            checksum = _checksum(file.read_row_group(group), checksum)
    except (OSError, pa.ArrowException, ValueError):  # ValueError: names that are no text
        return False
    return metadata.get(CHECKSUM.encode()) == str(checksum).encode()


def _check_ids(files: Sequence[Path]) -> None:
    """ConfigError if a subject occurs in two parts: its rows are not together."""
    ids = np.sort(np.concatenate([pq.read_table(file, columns=["id"])["id"].to_numpy() for file in files]))
    twice = np.flatnonzero(ids[1:] == ids[:-1])  # (ids may be text)
    if len(twice):
        raise ConfigError("table of observations: rows of a subject are not together", where=f"id {ids[twice[0]]}")


def _summary(path: Path, *, reused: int) -> EbeFile:
    converged = pq.read_table(path, columns=["converged"])["converged"]
    return EbeFile(path, len(converged), len(converged) - pc.sum(converged).as_py(), reused)
