"""Simulation of a population: random effects → individual parameters → predictions → observations.

Every function is pure and works row by row: a subject's numbers depend on its own row (and, for noise, on its id and
the stream's key), never on the other rows of the call. Any chunking and any number of workers give the same bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.random import normals
from image_longitudinal.models.nlme.data.dosing import Dose, observation_times
from image_longitudinal.models.nlme.data.event_expansion import population_data
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.library import get_model, known_models
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.structural import StructuralModel

__all__ = [
    "Dose", "get_model", "individual_parameters", "known_models", "observe", "observe_table", "predict", "simulate",
    "simulate_table",
]  # fmt: skip

FloatArray = NDArray[np.float64]


def individual_parameters(model: PopulationModel, eta: ArrayLike) -> FloatArray:
    """Individual parameters from random effects.

    Args:
        model: the population model.
        eta: random effects, (n, k), in the order of ``model.random_effect_names``.

    Returns:
        float64, (n, p), in the order of ``model.parameter_names``.

    Raises:
        ConfigError: ``eta`` does not have k columns.
    """
    eta = np.ascontiguousarray(eta, dtype=np.float64)
    if eta.ndim != 2 or eta.shape[1] != model.n_random_effects:
        raise ConfigError(
            f"random effects do not fit model {model.name!r}",
            expected=f"shape (n, {model.n_random_effects})",
            got=eta.shape,
        )
    values = np.empty((len(eta), model.n_parameters))
    column = 0
    for index, parameter in enumerate(model.parameters):
        if parameter.random:
            # a contiguous copy: NumPy may round exp differently on strided data, and the bits must not depend on layout
            values[:, index] = parameter.individual(np.ascontiguousarray(eta[:, column]), np.exp)
            column += 1
        else:
            values[:, index] = parameter.typical
    return values


def simulate(
    model: PopulationModel,
    eta: ArrayLike,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    *,
    ids: ArrayLike | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    endpoint: str | None = None,
    workers: int = 1,
) -> FloatArray:
    """Noise-free predictions of subjects that share one design.

    An observation at the time of a dose sees the dose. Before the first dose the amounts are zero (or the model's own
    initial values).

    Args:
        model: the population model.
        eta: random effects, (n, k).
        times: observation times, (T,), ascending, or each subject's own, (n, T); the model's default if None.
        doses: the doses; the model's default if None.
        ids: subject ids, (n,), only to name a subject in an error; row numbers if None.
        covariates: values of the model's covariates, each (n,) or a number.
        endpoint: which of the model's endpoints; the first if None.
        workers: threads; the result is the same for any number.

    Returns:
        float64, (n, T).

    Raises:
        ConfigError: η, times, doses or covariates do not fit the model.
        SimulationError: random effects that are not finite, or a subject whose equation could not be integrated.
    """
    parameters = individual_parameters(model, eta)
    parameters[~np.isfinite(np.asarray(eta, dtype=np.float64)).all(axis=1)] = np.nan  # (exp(-inf) would pass as 0)
    given = model.design.doses if doses is None else doses
    planned = np.asarray(model.design.times if times is None else times, dtype=np.float64)
    n, own = len(parameters), planned.ndim == 2 and len(planned) > 0
    at = observation_times(planned[0] if own else planned)
    shared = not (own or model.structural.covariates)
    data = PopulationData.of_design(
        model.structural, np.zeros((1 if shared else n, len(at))), at, given, covariates=covariates, endpoint=endpoint
    )
    if own:
        data = data.at_times(planned)
    out = predict(model.structural, parameters, data, ids=ids, shared=shared, workers=workers)
    return out.reshape(n, len(at))


def simulate_table(model: PopulationModel, eta: ArrayLike, table: EventTable, *, workers: int = 1) -> FloatArray:
    """Noise-free predictions at every row of an event table (dose rows: after the dose).

    Args:
        model: the population model.
        eta: random effects, (n, k), in the table's order of subjects.
        table: doses, covariates and times of every subject.
        workers: threads; the result is the same for any number.

    Returns:
        float64, (rows,).

    Raises:
        ConfigError, SimulationError: as :func:`simulate`.
    """
    data = population_data(table, model.structural, every_row=True)
    parameters = individual_parameters(model, eta)
    if len(parameters) != len(data):
        raise ConfigError("random effects do not fit the table", expected=f"{len(data)} subjects", got=len(parameters))
    return predict(model.structural, parameters, data, ids=data.ids, workers=workers)


def predict(
    model: StructuralModel,
    parameters: ArrayLike,
    data: PopulationData,
    *,
    ids: ArrayLike | None = None,
    shared: bool = False,
    workers: int = 1,
    tolerance: float | None = None,
) -> FloatArray:
    """Predictions of a structural model from individual parameters.

    Args:
        model: the structural model.
        parameters: (n, p).
        data: times and events of the n subjects, or of one if ``shared``.
        ids: subject ids, (n,), to name a subject in an error; row numbers if None.
        shared: whether all subjects have the times and events of the first in ``data``.
        workers: threads; the result is the same for any number.
        tolerance: per step; the kernel's own if None.

    Returns:
        float64, (N,): the rows of all subjects one after the other.

    Raises:
        SimulationError: parameters that are not finite, or a subject that could not be integrated.
    """
    values = np.ascontiguousarray(parameters, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    kernel, arrays = kernel_of(model, plain=data.is_plain), data.arrays
    per_step = kernel.TOLERANCE if tolerance is None else tolerance
    rows = np.arange(len(values) + 1) * len(data.times) if shared else data.row_start
    out = np.empty(rows[-1])
    none = np.empty((len(out), 0))

    def run(start: int, stop: int) -> tuple[int, int]:
        where = slice(rows[start], rows[stop])
        first = 0 if shared else start
        failed, reason = kernel.run(values[start:stop], arrays, first, shared, per_step, out[where], none[where])
        return (-1, 0) if failed < 0 else (start + failed, reason)

    failed, reason = (int(bad[0]), 1) if len(bad) else _run_in_threads(run, len(values), workers)
    if failed >= 0:
        raise failure(model, values[failed], failed if ids is None else np.asarray(ids)[failed], reason)
    return out


def failure(model: StructuralModel, parameters: ArrayLike, subject: int, reason: int) -> SimulationError:
    """The error that says why a kernel failed on a subject; ``reason`` as in :mod:`models.nlme.kernels.course`."""
    values = ", ".join(f"{k}={v:.6g}" for k, v in zip(model.parameters, np.asarray(parameters), strict=True))
    what, expected = {
        2: ("reached no steady state", "one within 10,000 dosing intervals"),
        3: ("gave a dose an impossible lag time, bioavailability, rate or duration", "none negative, rates above 0"),
    }.get(reason, ("could not be integrated", "finite parameters and a convergent solution"))
    return SimulationError(f"model {model.name!r} {what}", where=f"subject {subject}", expected=expected, got=values)


def observe(
    model: PopulationModel, prediction: ArrayLike, *, key: int, ids: ArrayLike, endpoint: str | None = None
) -> FloatArray:
    """Observations: predictions plus residual error drawn from each subject's own stream.

    Args:
        model: the population model.
        prediction: noise-free predictions, (n, T).
        key: stream key (:func:`core.random.stream_key`).
        ids: subject ids, (n,): the noise of a subject depends on key, id and position alone.
        endpoint: which of the model's endpoints is predicted; the first if None.

    Returns:
        float64, (n, T).
    """
    prediction = np.ascontiguousarray(prediction, dtype=np.float64)
    if not prediction.size:
        return prediction.copy()
    residual = model.residuals[0 if endpoint is None else model.structural.endpoint_index(endpoint)]
    return residual.scatter(prediction, normals(key, ids, prediction.shape[1]))


def observe_table(
    model: PopulationModel,
    prediction: ArrayLike,
    table: EventTable,
    *,
    key: int,
    limits: Mapping[str, float] | None = None,
) -> EventTable:
    """The table with simulated observations in DV (dose rows: missing), from predictions at its rows.

    Args:
        model: the population model.
        prediction: noise-free predictions, (rows,), of :func:`simulate_table`.
        table: its rows; observations are those with EVID 0.
        key: stream key; the noise of a row depends on key, subject and the row's position within the subject alone.
        limits: limits of quantification by endpoint: what is below has the limit as DV, and CENS 1.
    """
    predicted = np.asarray(prediction, dtype=np.float64)
    endpoint, dv = table.endpoint_index(), np.full(len(table), np.nan)
    ids, starts = np.unique(table["ID"], return_index=True)
    position = np.arange(len(table)) - np.repeat(np.sort(starts), np.diff([*np.sort(starts), len(table)]))
    noise = normals(key, ids.astype(np.int64), int(position.max(initial=0)) + 1)
    drawn = noise[np.searchsorted(ids, table["ID"]), position]
    censored = np.zeros(len(table))
    for index, name in enumerate(model.structural.endpoints):
        rows = (table["EVID"] == 0) & (endpoint == index)
        dv[rows] = model.residuals[index].scatter(predicted[rows], drawn[rows])
        low = rows & (dv < (limits or {}).get(name, -np.inf))
        dv[low], censored[low] = (limits or {}).get(name, 0.0), 1.0
    return table.with_columns({"DV": dv, "MDV": (table["EVID"] != 0).astype(float), "CENS": censored})


def kernel_of(model: StructuralModel, *, plain: bool = True) -> ModuleType:
    """The module with the compiled ``run`` of a model; ``plain``: for doses of known amount and rate only."""
    if model.kernel is None or not plain:
        from image_longitudinal.models.nlme.kernels.codegen import (
            generated_kernel,
        )  # imports PyTensor, which takes a second

        return generated_kernel(model)
    return importlib.import_module(model.kernel)


def _run_in_threads(run: Callable[[int, int], tuple[int, int]], n: int, workers: int) -> tuple[int, int]:
    """Cover 0..n in pieces on threads (the kernels release the GIL); the first failed row and why, or (-1, 0)."""
    if workers <= 1 or n < 2:
        return run(0, n) if n else (-1, 0)
    cuts = np.linspace(0, n, min(n, 4 * workers) + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        failed = [result for result in pool.map(run, cuts[:-1], cuts[1:]) if result[0] >= 0]
    return min(failed, default=(-1, 0))
