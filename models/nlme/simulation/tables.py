"""Event tables with simulated observations of every endpoint."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.nlme.data.event_expansion import expand_events
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.symbolic import risks_of
from image_longitudinal.models.nlme.simulation.outcomes import drawn_values, event_times, predictions_and_arguments
from image_longitudinal.models.nlme.simulation.simulate import individual_parameters, observe_table, predict_table

FloatArray = NDArray[np.float64]


def simulate_table(
    model: PopulationModel, eta: ArrayLike, table: EventTable, *, key: int, n_threads: int = 1
) -> EventTable:  # fmt: skip
    """The table with simulated observations in DV (dose rows: missing).

    TIME of an event's row is the end of the subject's follow-up. If the event comes before, the row moves there.

    Args:
        model: the population model.
        eta: random effects, (n, k), in the table's order of subjects.
        table: its rows; observations are those with EVID 0.
        key: stream key; draws of a row depend on key, subject and the row's position within the subject alone.
        n_threads: the result does not depend on it.

    Raises:
        ConfigError: random effects that do not fit, or a subject with two rows of an event.
        SimulationError: a subject's equations cannot be integrated.
    """
    if model.structural.likelihood is None:
        return observe_table(model, predict_table(model, eta, table, n_threads=n_threads), table, key=key)
    data, parameters = expand_events(table, model.structural, every_row=True), individual_parameters(model, eta)
    if len(parameters) != len(data):
        raise ConfigError("random effects do not fit the table", expected=f"{len(data)} subjects", got=len(parameters))
    prediction, parts = predictions_and_arguments(model, parameters, data, n_threads=n_threads)
    drawn = observe_table(model, prediction, table, key=key)
    observed, endpoint, subject = table["EVID"] == 0, table.endpoint_index(), data.subject_of_row
    position = np.arange(len(table)) - data.row_start[subject]
    uniform = uniforms(stream_key(key, "likelihood"), data.ids, int(position.max(initial=0)) + 1)[subject, position]
    values, time = drawn["DV"].copy(), table["TIME"].copy()
    discrete = np.full(len(table), np.nan)
    drawn_values(parts, uniform, discrete)
    values[observed] = np.where(np.isnan(values), discrete, values)[observed]
    for risk in risks_of(model.structural):
        rows = np.flatnonzero(observed & (endpoint == risk.endpoint))
        who = subject[rows]
        twice = np.flatnonzero(np.diff(who) == 0)
        if len(twice):
            what = f"several rows of event {model.structural.endpoints[risk.endpoint]!r}"
            raise ConfigError(what, where=table.where(rows[twice[0] + 1], 0), expected="one: the end of follow-up")
        found = event_times(
            model, parameters[who], data.take(who), risk.endpoint, time[rows], uniform[rows], n_threads=n_threads
        )
        time[rows], values[rows] = found.time, found.happened
    columns = drawn.columns | {"DV": values, "TIME": time}
    columns |= {"LIMIT": np.full(len(table), np.nan)} if "LIMIT" in columns else {}
    moved = np.flatnonzero(time < table["TIME"])
    for name in table.covariates:
        columns[name] = _carried_back(columns[name], table["TIME"], time, subject, data.row_start, moved)
    order = np.lexsort((time < table["TIME"], time, subject))  # a moved row comes after others of its time
    return replace(table, columns={name: column[order] for name, column in columns.items()})


def _carried_back(
    values: FloatArray, planned: FloatArray, time: FloatArray, subject: NDArray[np.int64], start: NDArray[np.int64],
    moved: NDArray[np.intp],
) -> FloatArray:  # fmt: skip
    """A covariate in which rows that moved to an earlier time have the last value from before it, if there is one."""
    out = values.copy()
    for row in moved:
        first = start[subject[row]]
        earlier = np.arange(first, row)[(planned[first:row] <= time[row]) & np.isfinite(values[first:row])]
        if len(earlier):
            out[row] = values[earlier[-1]]
    return out
