"""A simulated trial as a table in NM-TRAN's columns, written in pieces of whole subjects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from core.errors import ConfigError
from core.random import normals, stream_key
from models.nlme.dosing import Dose, observation_times
from models.nlme.population import PopulationModel
from models.nlme.simulation import individual_parameters, observe, simulate

CHUNK = 5000  # subjects simulated and written at a time
SUFFIXES = (".csv", ".parquet")


def simulate_table(
    model: PopulationModel,
    path: str | Path,
    n: int,
    *,
    seed: int,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    truth: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Simulate ``n`` subjects that share one design and write what was done to them and seen of them.

    The file has ID (from 1), TIME, EVID, AMT, RATE (only with infusions), CMT, DV and MDV, a subject's rows in the
    order of time with a dose before what is observed then; DV is ``.`` (CSV) or null (Parquet) in dose rows, CMT is 0
    (the observed one) in the others. It appears whole or not at all. A subject's rows depend on seed, id and design
    alone.

    Args:
        model: the population model.
        path: a file ending in .csv or .parquet, in an existing folder.
        n: number of subjects.
        seed: of random effects and residual error.
        times: observation times; the model's design if None.
        doses: the doses; the model's design if None.
        truth: a file (.csv or .parquet) for each subject's random effects and parameters, or None.
        workers: threads; the result does not depend on it.
        progress: called with the number of subjects written.

    Raises:
        ConfigError: an unusable file name, number of subjects, times or doses.
        SimulationError: a subject whose equations cannot be integrated.
    """
    if n < 1:
        raise ConfigError("no subjects to simulate", expected="at least 1", got=n)
    at = observation_times(model.design.times if times is None else times)
    given = tuple(model.design.doses if doses is None else doses)
    for file in (path, truth):
        if file is not None and (Path(file).suffix not in SUFFIXES or not Path(file).parent.is_dir()):
            raise ConfigError("cannot write a table there", expected=".csv or .parquet in an existing folder", got=file)
    factor = np.linalg.cholesky(np.asarray(model.omega))
    etas: list[pa.Table] = []

    def pieces() -> Iterator[pa.Table]:
        for first in range(0, n, CHUNK):
            ids = np.arange(first + 1, min(first + CHUNK, n) + 1)
            eta = normals(stream_key(seed, "trial eta"), ids, len(factor)) @ factor.T
            predicted = simulate(model, eta, at, given, ids=ids, workers=workers)
            observed = observe(model, predicted, key=stream_key(seed, "trial residual"), ids=ids)
            if truth is not None:
                parameters = dict(zip(model.parameter_names, individual_parameters(model, eta).T, strict=True))
                effects = dict(zip(model.random_effect_names, eta.T, strict=True))
                etas.append(pa.table({"ID": ids, **effects, **parameters}))
            yield _rows(model, ids, at, given, observed)
            if progress:
                progress(int(ids[-1]))

    _write(Path(path), pieces())
    if truth is not None:
        _write(Path(truth), iter(etas))
    return Path(path)


def _rows(
    model: PopulationModel, ids: np.ndarray, times: np.ndarray, doses: Sequence[Dose], observed: np.ndarray
) -> pa.Table:
    """Rows of subjects that share one design; observed (n, T)."""
    n, d, width = len(ids), len(doses), len(doses) + len(times)
    time = np.concatenate([[dose.time for dose in doses], times])
    order = np.lexsort((np.arange(width), time))  # doses come first where times are equal
    evid = np.concatenate([np.ones(d), np.zeros(len(times))]).astype(np.int8)[order]
    amount = np.concatenate([[dose.amount for dose in doses], np.zeros(len(times))])[order]
    rate = [dose.amount / dose.duration if dose.duration > 0 else 0.0 for dose in doses]
    compartment = [model.structural.state_index(dose.compartment) + 1 for dose in doses]
    dv = np.concatenate([np.zeros((n, d)), observed], axis=1)[:, order].ravel()
    dosed = np.tile(evid == 1, n)
    columns = {"ID": np.repeat(ids, width), "TIME": np.tile(time[order], n), "EVID": np.tile(evid, n)}
    columns["AMT"] = np.tile(amount, n)
    if any(rate):
        columns["RATE"] = np.tile(np.concatenate([rate, np.zeros(len(times))])[order], n)
    columns["CMT"] = np.tile(np.concatenate([compartment, np.zeros(len(times))]).astype(np.int8)[order], n)
    return pa.table({**columns, "DV": pa.array(dv, mask=dosed), "MDV": dosed.astype(np.int8)})


def _write(path: Path, pieces: Iterator[pa.Table]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        first = next(pieces)
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
                for piece in chain([first], pieces):
                    writer.write_table(piece)
        else:
            first = _as_text(first)
            options = pacsv.WriteOptions(quoting_style="none", quoting_header="none")
            with pacsv.CSVWriter(temporary, first.schema, write_options=options) as writer:
                for piece in chain([first], map(_as_text, pieces)):
                    writer.write_table(piece)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_text(table: pa.Table) -> pa.Table:
    """DV as text, with NM-TRAN's mark of a missing value."""
    if "DV" not in table.column_names:
        return table
    position = table.column_names.index("DV")
    return table.set_column(position, "DV", pc.fill_null(table["DV"].cast(pa.string()), "."))
