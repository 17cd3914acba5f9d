"""Simulated observations of endpoints with a likelihood: counts and levels by inversion, times of events as well.

A subject's draws depend on the stream's key, its id and the position of the draw alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.core.random import uniforms
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.endpoint_likelihood import Discrete, Likelihood
from image_longitudinal.models.nlme.model.population import PopulationModel, check_likelihoods
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import likelihoods_of
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, predict

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PRECISE = 1e-10  # of the time of an event, relative to the end of follow-up
STEPS = 200  # of Newton's method with bisection, at most


class Arguments(NamedTuple):
    """Of the rows of one endpoint: its likelihood, the rows, and the values (a, rows) of the likelihood's arguments."""

    likelihood: Likelihood
    rows: IntArray
    values: FloatArray


class EventTimes(NamedTuple):
    """Of each subject (n,): the time of its event or of the end of its follow-up, and whether it had the event."""

    time: FloatArray
    happened: NDArray[np.bool_]


def predictions_and_arguments(
    model: PopulationModel, parameters: FloatArray, data: PopulationData, *, n_threads: int = 1,
    tolerance: float | None = None,
) -> tuple[FloatArray, list[Arguments]]:  # fmt: skip
    """Predictions (N,), of rows with a likelihood the mean (cumulative hazard of an event), and its arguments.

    Args:
        model: the population model.
        parameters: individual parameters, (n, p).
        data: rows and events of the n subjects.
        n_threads: the result does not depend on it.
        tolerance: per step; the kernel's own if None.

    Raises:
        SimulationError: a subject's equations cannot be integrated.
    """
    options: dict[str, Any] = {"ids": data.names, "n_threads": n_threads, "tolerance": tolerance}
    check_likelihoods(model)
    structural, places = model.structural, _places(model.structural)
    if not places:
        return predict(structural, parameters, data, **options), []
    most = max(len(own.arguments) for own, _ in places.values())
    found: list[FloatArray] = []
    for number in range(most):
        asked = data.endpoint.copy()
        for index, (own, first) in places.items():
            asked[data.endpoint == index] = first + min(number, len(own.arguments) - 1)
        found.append(predict(structural, parameters, replace(data, endpoint=asked), **options))
    prediction, parts = found[0].copy(), []
    for index, (own, _) in places.items():
        rows = np.flatnonzero(data.endpoint == index)
        values = np.stack([one[rows] for one in found[: len(own.arguments)]])
        prediction[rows] = own.moments(values)[0]
        parts.append(Arguments(own, rows, values))
    return prediction, parts


def expected(model: PopulationModel, eta: ArrayLike, data: PopulationData) -> FloatArray:
    """:func:`predictions_and_arguments` at random effects (n, k), predictions alone."""
    return predictions_and_arguments(model, individual_parameters(model, eta), data)[0]


def _places(model: StructuralModel) -> dict[int, tuple[Likelihood, int]]:
    """Endpoints with a likelihood: that, and the position of its first argument among the model's outputs."""
    found, place = dict[int, tuple[Likelihood, int]](), len(model.endpoints)
    for index, own in enumerate(likelihoods_of(model)):
        if own is not None:
            found[index] = own, place
            place += len(own.arguments)
    return found


def drawn_values(parts: Sequence[Arguments], uniform: FloatArray, into: FloatArray) -> None:
    """Draw the rows of discrete endpoints into ``into`` (N,), by uniform draws (N,)."""
    for own in parts:
        if isinstance(own.likelihood, Discrete):
            into[own.rows] = own.likelihood.quantile(uniform[own.rows], own.values)


def simulate_outcome(
    model: PopulationModel, eta: ArrayLike, times: ArrayLike, doses: Sequence[Dose], *, key: int, ids: ArrayLike,
    endpoint: str, covariates: Mapping[str, ArrayLike] | None = None, n_threads: int = 1,
) -> FloatArray:  # fmt: skip
    """Observations (n, T) of a discrete endpoint at each subject's own times (n, T), for random effects (n, k)."""
    parameters, at = individual_parameters(model, eta), np.ascontiguousarray(times, dtype=np.float64)
    data = PopulationData.of_design(
        model.structural, np.zeros(at.shape), at[0], doses, ids=ids, covariates=covariates, endpoint=endpoint
    ).at_times(at)
    out = predictions_and_arguments(model, parameters, data, n_threads=n_threads)
    values = np.empty(at.size)
    drawn_values(out[1], uniforms(key, ids, at.shape[1]).ravel(), values)
    return values.reshape(at.shape)


def simulate_event_times(
    model: PopulationModel, eta: ArrayLike, ends: ArrayLike, doses: Sequence[Dose], *, key: int, ids: ArrayLike,
    endpoint: str, covariates: Mapping[str, ArrayLike] | None = None, n_threads: int = 1,
) -> EventTimes:  # fmt: skip
    """Times of an event in subjects that are followed up to ``ends`` (n,), for random effects (n, k)."""
    parameters, stop = individual_parameters(model, eta), np.ascontiguousarray(ends, dtype=np.float64)
    data = PopulationData.of_design(
        model.structural, np.zeros((len(stop), 1)), [0.0], doses, ids=ids, covariates=covariates, endpoint=endpoint
    )
    index = model.structural.endpoint_index(endpoint)
    return event_times(model, parameters, data, index, stop, uniforms(key, ids, 1)[:, 0], n_threads=n_threads)


def event_times(
    model: PopulationModel, parameters: FloatArray, data: PopulationData, endpoint: int, ends: FloatArray,
    uniform: FloatArray, *, n_threads: int = 1,
) -> EventTimes:  # fmt: skip
    """Times at which the cumulative hazard reaches -log(uniform), found by Newton's method within a shrinking bracket.

    Args:
        model: the population model.
        parameters: individual parameters, (n, p).
        data: events of the n subjects; its rows are not used.
        endpoint: its position.
        ends: of follow-up, (n,).
        uniform: draws on (0, 1), (n,).
        n_threads: the result does not depend on it.

    Raises:
        SimulationError: a subject's equations cannot be integrated, or its cumulative hazard does not rise.
    """
    wanted = -np.log(uniform)

    def hazards(subjects: IntArray, times: FloatArray) -> FloatArray:
        """Cumulative hazard and hazard, (2, n), of some subjects."""
        some = observed_once(data if len(subjects) == len(data) else data.take(subjects), times, endpoint)
        parts = predictions_and_arguments(model, parameters[subjects], some, n_threads=n_threads)[1]
        return next(part.values for part in parts if len(part.rows))

    everyone = np.arange(len(ends))
    total = hazards(everyone, ends)[0]
    happened = total >= wanted
    time = ends.copy()
    who = everyone[happened]
    low, high = np.zeros(len(who)), ends[who].copy()
    at = high * (wanted[who] / np.maximum(total[who], 1e-300))
    open_ = np.arange(len(who))
    for _ in range(STEPS):
        if not len(open_):
            break
        reached, rate = hazards(who[open_], at[open_])
        gap = reached - wanted[who[open_]]
        below = gap < 0
        low[open_[below]], high[open_[~below]] = at[open_[below]], at[open_[~below]]
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = at[open_] - gap / rate
        inside = (newton > low[open_]) & (newton < high[open_])
        moved = np.where(inside, newton, 0.5 * (low[open_] + high[open_]))
        done = np.abs(moved - at[open_]) <= PRECISE * ends[who[open_]]
        at[open_] = moved
        open_ = open_[~done]
    if len(open_):
        where = f"subject {data.names[who[open_[0]]]}"
        raise SimulationError(f"the time of an event of model {model.name!r} was not found", where=where)
    time[who] = at
    return EventTimes(time, happened)


def observed_once(data: PopulationData, times: FloatArray, endpoint: int) -> PopulationData:
    """The subjects with one row each, of an endpoint at ``times`` (n,), after the events up to then."""
    own = np.repeat(np.arange(len(data)), np.diff(data.event_start))
    before = np.bincount(own, weights=data.when <= times[own], minlength=len(data)).astype(np.int64)
    n = len(data)
    return replace(
        data,
        row_start=np.arange(n + 1),
        times=np.ascontiguousarray(times),
        observed=np.zeros(n),
        before=before,
        endpoint=np.full(n, endpoint),
        censored=np.zeros(n, dtype=np.bool_),
    )
