"""Simulated trials as tables in NM-TRAN's columns, written in pieces of whole subjects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import normals, stream_key, uniforms
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.data.nmtran_writer import Dialect, check_target, write_events, write_rows
from image_longitudinal.models.nlme.model.dosing import Dose, observation_times
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.structural import given_covariates
from image_longitudinal.models.nlme.model.symbolic import risks_of
from image_longitudinal.models.nlme.simulation.outcomes import EventTimes, simulate_event_times, simulate_outcome
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe, simulate
from image_longitudinal.models.nlme.simulation.tables import simulate_table
from image_longitudinal.models.nlme.simulation.visits import Visits

CHUNK = 5000  # subjects simulated and written at a time


def write_trial(
    model: PopulationModel,
    path: str | Path,
    n: int,
    *,
    seed: int,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    visits: Visits | None = None,
    covariates: Mapping[str, tuple[float, float]] | None = None,
    truth: str | Path | None = None,
    dialect: Dialect = "nonmem",
    n_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Simulate ``n`` subjects that share one design and write their doses and observations.

    The file has ID (from 1), TIME, EVID, AMT, RATE (only with infusions), CMT, DV, MDV, DVID (only with several
    endpoints, which are observed at the same times) and the model's covariates. A subject's rows are in the order of
    time, a dose before observations at its time. An endpoint that is the time of an event has one row: DV 1 at the
    event, or DV 0 at the last visit that the subject attended, without the event up to then. DV is missing in dose rows
    and at missed visits, which keep their row with MDV 1; CMT is 0 (the observed compartment) in rows without a dose. A
    subject's rows depend on seed, id and design alone.

    Args:
        model: the population model.
        path: a file ending in .csv or .parquet, in an existing folder.
        n: number of subjects.
        seed: of random effects and residual error.
        times: observation times; the model's design if None.
        doses: the doses; the model's design if None.
        visits: schedule with jitter, missed visits and dropout, in place of ``times``.
        covariates: range (low, high) of each of the model's covariates, drawn uniformly for a subject and constant.
        truth: a file (.csv or .parquet) for each subject's random effects and parameters, or None.
        dialect: of the table.
        n_threads: the result does not depend on it.
        progress: called with the number of subjects written.

    Raises:
        ConfigError: an unusable file name, number of subjects, times, doses or covariates.
        SimulationError: a subject whose equations cannot be integrated.
    """
    if n < 1:
        raise ConfigError("no subjects to simulate", expected="at least 1", got=n)
    planned = model.design.times if times is None else times
    at = observation_times(visits.times if visits else planned)
    given = tuple(model.design.doses if doses is None else doses)
    events = [risk.endpoint for risk in risks_of(model.structural)]
    check_target(path)
    if truth:
        check_target(truth)
    etas: list[pa.Table] = []

    def pieces() -> Iterator[pa.Table]:
        for first in range(0, n, CHUNK):
            ids = np.arange(first + 1, min(first + CHUNK, n) + 1)
            eta = _random_effects(model, seed, ids)
            own = {
                name: low + (high - low) * uniforms(stream_key(seed, "trial covariate", name), ids, 1)[:, 0]
                for name, (low, high) in (covariates or {}).items()
            }
            visit_times, seen = visits.draw(seed, ids) if visits else (at, np.ones((len(ids), len(at)), np.bool_))
            observed, at_times = [], np.broadcast_to(visit_times, seen.shape)
            for number, endpoint in enumerate(model.structural.endpoints):
                options: dict[str, Any] = {"covariates": own, "endpoint": endpoint, "n_threads": n_threads}
                key = stream_key(seed, "trial residual", *([number] if number else []))
                if number in events:
                    continue
                if model.residuals[number].kind == "likelihood":
                    observed.append(simulate_outcome(model, eta, at_times, given, key=key, ids=ids, **options))
                    continue
                predicted = simulate(model, eta, visit_times, given, ids=ids, **options)
                observed.append(observe(model, predicted, key=key, ids=ids, endpoint=endpoint))
            stacked = np.stack(observed, axis=2) if observed else np.empty((*seen.shape, 0))
            values = np.where(seen[:, :, None], stacked, np.nan)
            numbers = [number for number in range(len(model.structural.endpoints)) if number not in events]
            rows = _rows(model, ids, at, at_times, given, values, numbers)
            for number in events:
                options = {"covariates": own, "endpoint": model.structural.endpoints[number], "n_threads": n_threads}
                key = stream_key(seed, "trial event", number)
                ends = np.where(seen, at_times, 0.0).max(axis=1)  # the last visit that was attended
                found = simulate_event_times(model, eta, ends, given, key=key, ids=ids, **options)
                rows = with_events(rows, ids, found, number)
            for name in given_covariates(model.structural):
                rows = rows.append_column(name, pa.array(own[name][np.searchsorted(ids, rows["ID"].to_numpy())]))
            if truth is not None:
                etas.append(_truth(model, ids, eta))
            yield rows
            if progress:
                progress(int(ids[-1]))

    write_rows(path, pieces(), dialect)
    if truth is not None:
        write_rows(truth, etas)
    return Path(path)


def write_simulated_events(
    model: PopulationModel,
    table: EventTable,
    path: str | Path,
    *,
    seed: int,
    truth: str | Path | None = None,
    dialect: Dialect = "nonmem",
    n_threads: int = 1,
) -> Path:
    """Write an event table with simulated observations in DV; arguments and errors as :func:`write_trial`."""
    ids = np.array([subject for subject, _ in table.subjects()])
    eta = _random_effects(model, seed, ids)
    simulated = simulate_table(model, eta, table, key=stream_key(seed, "trial residual"), n_threads=n_threads)
    write_events(simulated, path, dialect)
    if truth is not None:
        names = ids if table.labels is None else np.array(table.labels)
        write_rows(truth, [_truth(model, names, eta)])
    return Path(path)


def _random_effects(model: PopulationModel, seed: int, ids: np.ndarray) -> np.ndarray:
    return normals(stream_key(seed, "trial eta"), ids, len(model.omega)) @ np.linalg.cholesky(model.omega).T


def _truth(model: PopulationModel, ids: np.ndarray, eta: np.ndarray) -> pa.Table:
    parameters = dict(zip(model.parameter_names, individual_parameters(model, eta).T, strict=True))
    return pa.table({"ID": ids, **dict(zip(model.random_effect_names, eta.T, strict=True)), **parameters})


def _rows(
    model: PopulationModel, ids: np.ndarray, planned: np.ndarray, times: np.ndarray, doses: Sequence[Dose],
    observed: np.ndarray, numbers: Sequence[int],
) -> pa.Table:  # fmt: skip
    """Rows in the order of the planned times (T,); times (n, T); observed (n, T, endpoints), NaN at missed visits.

    ``numbers``: positions of these endpoints among the model's.
    """
    n, d, endpoints = len(ids), len(doses), observed.shape[2]
    visits = len(planned) * endpoints
    width, of_doses = d + visits, np.array([dose.time for dose in doses])
    # doses come first where times are equal
    order = np.lexsort((np.arange(width), np.concatenate([of_doses, np.repeat(planned, endpoints)])))
    time = np.concatenate([np.tile(of_doses, (n, 1)), np.repeat(times, endpoints, axis=1)], axis=1)[:, order]

    def tiled(dosed: ArrayLike, dtype: type = np.float64) -> np.ndarray:
        return np.tile(np.concatenate([dosed, np.zeros(visits)]).astype(dtype)[order], n)

    rate = [dose.amount / dose.duration if dose.duration > 0 else 0.0 for dose in doses]
    compartment = [model.structural.state_index(dose.compartment) + 1 for dose in doses]
    dv = np.concatenate([np.full((n, d), np.nan), observed.reshape(n, -1)], axis=1)[:, order].ravel()
    missing = np.isnan(dv)
    columns = {"ID": np.repeat(ids, width), "TIME": time.ravel(), "EVID": tiled(np.ones(d), np.int8)}
    columns["AMT"] = tiled([dose.amount for dose in doses])
    if any(rate):
        columns["RATE"] = tiled(rate)
    columns["CMT"] = tiled(compartment, np.int8)
    columns |= {"DV": pa.array(dv, mask=missing), "MDV": missing.astype(np.int8)}
    if len(model.structural.endpoints) > 1:
        number = np.concatenate([np.zeros(d), np.tile(np.array(numbers, dtype=np.int64) + 1, len(planned))])
        columns["DVID"] = np.tile(number.astype(np.int8)[order], n)
    return pa.table(columns)


def with_events(rows: pa.Table, ids: np.ndarray, found: EventTimes, number: int) -> pa.Table:
    """Rows of subjects ``ids`` (n,) with one more each, of the event that is endpoint ``number``, in order of time."""
    n = len(ids)
    own: dict[str, Any] = {"ID": ids, "TIME": found.time, "DV": found.happened.astype(np.float64), "DVID": number + 1}
    columns = {
        name: pa.array(np.broadcast_to(own.get(name, 0), (n,))).cast(rows.schema.field(name).type)
        for name in rows.column_names
    }
    both = pa.concat_tables([rows, pa.table(columns)])
    order = np.lexsort((np.arange(len(both)), both["TIME"].to_numpy(), both["ID"].to_numpy()))
    return both.take(order)
