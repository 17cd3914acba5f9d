"""Simulation of a population: random effects → individual parameters → predictions → observations.

Every function is pure and works row by row: a subject's numbers depend on its own row (and, for noise, on its id and
the stream's key), never on other rows. Any chunking and any number of threads give the same bits. Neither PyMC nor
PyTensor is imported before a generated kernel is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.core.random import normals
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels.codegen import solver_kernel
from image_longitudinal.models.nlme.kernels.records import GOOD, IMPOSSIBLE_DOSE, NO_STEADY_STATE, NOT_INTEGRATED
from image_longitudinal.models.nlme.model.dosing import Dose, observation_times
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.structural import StructuralModel

FloatArray = NDArray[np.float64]


def individual_parameters(model: PopulationModel, eta: ArrayLike) -> FloatArray:
    """Individual parameters, float64 (n, p) in the order of ``model.parameter_names``.

    ``eta``: random effects, (n, k), in the order of ``model.random_effect_names``; ConfigError unless it has k columns.
    """
    eta = np.ascontiguousarray(eta, dtype=np.float64)
    if eta.ndim != 2 or eta.shape[1] != model.n_random_effects:
        expected = f"shape (n, {model.n_random_effects})"
        raise ConfigError(f"random effects do not fit model {model.name!r}", expected=expected, got=eta.shape)
    values = np.tile(np.array([parameter.typical for parameter in model.parameters]), (len(eta), 1))
    random = [index for index, parameter in enumerate(model.parameters) if parameter.random]
    for index, column in zip(random, eta.T, strict=True):
        # a contiguous copy: NumPy may round exp differently on strided data, and the bits must not depend on layout
        values[:, index] = model.parameters[index].individual(np.ascontiguousarray(column), np.exp)
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
    n_threads: int = 1,
) -> FloatArray:
    """Noise-free predictions of subjects that share one design.

    An observation at the time of a dose includes the dose. Before the first dose the amounts are zero or the model's
    initial values.

    Args:
        model: the population model.
        eta: random effects, (n, k).
        times: observation times, (T,), ascending, or each subject's own, (n, T); the model's default if None.
        doses: the doses; the model's default if None.
        ids: subject ids, (n,), to name a subject in an error; row numbers if None.
        covariates: values of the model's covariates, each (n,) or a number.
        endpoint: one of the model's endpoints; the first if None.
        n_threads: the result is the same for any number.

    Returns:
        float64, (n, T).

    Raises:
        ConfigError: η, times, doses or covariates do not fit the model, or the endpoint has a likelihood.
        SimulationError: random effects that are not finite, or a subject whose equation could not be integrated.
    """
    parameters = individual_parameters(model, eta)
    parameters[~np.isfinite(np.asarray(eta, dtype=np.float64)).all(axis=1)] = np.nan  # (exp(-inf) would pass as 0)
    return simulate_individuals(
        model, parameters, times, doses, ids=ids, covariates=covariates, endpoint=endpoint, n_threads=n_threads
    )


def simulate_individuals(
    model: PopulationModel,
    parameters: FloatArray,
    times: ArrayLike | None = None,
    doses: Sequence[Dose] | None = None,
    *,
    ids: ArrayLike | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    endpoint: str | None = None,
    n_threads: int = 1,
) -> FloatArray:
    """:func:`simulate` from individual parameters (n, p) instead of random effects."""
    name = model.structural.endpoints[0] if endpoint is None else endpoint
    if model.residuals[model.structural.endpoint_index(name)].kind == "likelihood":
        what, do = f"endpoint {name!r} has a likelihood, not a prediction", "see models.nlme.simulation.outcomes"
        raise ConfigError(what, where=f"model {model.name!r}", do=do)
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
    out = predict(model.structural, parameters, data, ids=ids, shared=shared, n_threads=n_threads)
    return out.reshape(n, len(at))


def predict_table(model: PopulationModel, eta: ArrayLike, table: EventTable, *, n_threads: int = 1) -> FloatArray:
    """Noise-free predictions at every row of an event table (dose rows: after the dose), float64 (rows,).

    ``eta`` (n, k): random effects in the table's order of subjects; ``n_threads`` and errors as :func:`simulate`.
    """
    if model.structural.likelihood is not None:
        what, do = f"model {model.name!r} has a likelihood", "see models.nlme.simulation.tables.simulate_table"
        raise ConfigError(what, expected="predictions of every endpoint", do=do)
    data = expand_events(table, model.structural, every_row=True)
    parameters = individual_parameters(model, eta)
    if len(parameters) != len(data):
        raise ConfigError("random effects do not fit the table", expected=f"{len(data)} subjects", got=len(parameters))
    return predict(model.structural, parameters, data, ids=data.names, n_threads=n_threads)


def predict(
    model: StructuralModel,
    parameters: ArrayLike,
    data: PopulationData,
    *,
    ids: ArrayLike | None = None,
    shared: bool = False,
    n_threads: int = 1,
    tolerance: float | None = None,
) -> FloatArray:
    """Predictions of a structural model from individual parameters (n, p): float64 (N,), subject after subject.

    Args:
        model: the structural model.
        parameters: individual parameters.
        data: times and events of the n subjects, or of one if ``shared``.
        ids: subject ids, (n,), to name a subject in an error; row numbers if None.
        shared: whether all subjects have the times and events of the first in ``data``.
        n_threads: the result is the same for any number.
        tolerance: per step; the kernel's own if None.

    Raises:
        SimulationError: parameters that are not finite, or a subject that could not be integrated.
    """
    values = np.ascontiguousarray(parameters, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    kernel = solver_kernel(model, plain=data.is_plain, stepwise=data.is_stepwise, boluses=data.is_boluses)
    arrays = data.arrays
    per_step = kernel.TOLERANCE if tolerance is None else tolerance
    rows = np.arange(len(values) + 1) * len(data.times) if shared else data.row_start
    out = np.empty(rows[-1])
    none = np.empty((len(out), 0))

    def run(start: int, stop: int) -> tuple[int, int]:
        where = slice(rows[start], rows[stop])
        first = 0 if shared else start
        failed, reason = kernel.run(values[start:stop], arrays, first, shared, per_step, out[where], none[where])
        return (-1, GOOD) if failed < 0 else (start + failed, reason)

    failed, reason = (int(bad[0]), NOT_INTEGRATED) if len(bad) else _run_in_threads(run, len(values), n_threads)
    if failed >= 0:
        raise integration_error(model, values[failed], failed if ids is None else np.asarray(ids)[failed], reason)
    return out


def integration_error(model: StructuralModel, parameters: ArrayLike, subject: int, reason: int) -> SimulationError:
    """The error for a subject on which a kernel failed; ``reason`` of :mod:`models.nlme.kernels.records`."""
    values = ", ".join(f"{k}={v:.6g}" for k, v in zip(model.parameters, np.asarray(parameters), strict=True))
    what, expected = "could not be integrated", "finite parameters and a convergent solution"
    if reason == NO_STEADY_STATE:
        what, expected = "reached no steady state", "one within 10,000 dosing intervals"
    elif reason == IMPOSSIBLE_DOSE:
        what = "gave a dose an impossible lag time, bioavailability, rate or duration"
        expected = "none negative, rates above 0"
    return SimulationError(f"model {model.name!r} {what}", where=f"subject {subject}", expected=expected, got=values)


def observe(
    model: PopulationModel, prediction: ArrayLike, *, key: int, ids: ArrayLike, endpoint: str | None = None
) -> FloatArray:
    """Observations: predictions (n, T) plus residual error drawn from each subject's own stream, float64.

    Predictions (A, n, T) of the same subjects under A arms get the same draws.

    Args:
        model: the population model.
        prediction: noise-free.
        key: stream key (:func:`core.random.stream_key`).
        ids: subject ids, (n,): the noise of a subject depends on key, id and position alone.
        endpoint: the endpoint that is predicted; the first if None.
    """
    prediction = np.ascontiguousarray(prediction, dtype=np.float64)
    if not prediction.size:
        return prediction.copy()
    residual = model.residuals[0 if endpoint is None else model.structural.endpoint_index(endpoint)]
    return residual.scatter(prediction, normals(key, ids, prediction.shape[-1]))


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
        prediction: noise-free predictions, (rows,), of :func:`predict_table`.
        table: its rows; observations are those with EVID 0.
        key: stream key; the noise of a row depends on key, subject and the row's position within the subject alone.
        limits: limits of quantification by endpoint: a value below has the limit as DV, and CENS 1.
    """
    predicted = np.asarray(prediction, dtype=np.float64)
    endpoint, dv = table.endpoint_index(), np.full(len(table), np.nan)
    ids, starts = np.unique(table["ID"], return_index=True)
    position = np.arange(len(table)) - np.repeat(np.sort(starts), np.diff([*np.sort(starts), len(table)]))
    noise = normals(key, ids.astype(np.int64), int(position.max(initial=0)) + 1)
    drawn = noise[np.searchsorted(ids, table["ID"]), position]
    censored = np.zeros(len(table))
    observed = table["EVID"] == 0
    dv[observed] = model.scatter(predicted[observed], endpoint[observed], drawn[observed])
    for name, limit in (limits or {}).items():
        low = observed & (endpoint == model.structural.endpoint_index(name)) & (dv < limit)
        dv[low], censored[low] = limit, 1.0
    return replace(table, columns=table.columns | {"DV": dv, "MDV": (~observed).astype(float), "CENS": censored})


def _run_in_threads(run: Callable[[int, int], tuple[int, int]], n: int, n_threads: int) -> tuple[int, int]:
    """Run 0..n in pieces on threads (the kernels release the GIL); the first failed row and why, or (-1, GOOD)."""
    if n_threads <= 1 or n < 2:
        return run(0, n) if n else (-1, GOOD)
    cuts = np.linspace(0, n, min(n, 4 * n_threads) + 1).astype(int)
    with ThreadPoolExecutor(n_threads) as pool:
        failed = [result for result in pool.map(run, cuts[:-1], cuts[1:]) if result[0] >= 0]
    return min(failed, default=(-1, GOOD))
