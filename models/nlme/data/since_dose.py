"""Time since the last dose, a covariate that is derived from the events: 0 at a dose, then growing with time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from image_longitudinal.models.nlme.kernels.records import COVARIATES, RESET
from image_longitudinal.models.nlme.model.structural import SINCE_DOSE, StructuralModel

if TYPE_CHECKING:
    from image_longitudinal.models.nlme.data.population_data import PopulationData


def with_time_since_dose(data: PopulationData, model: StructuralModel) -> PopulationData:
    """Data of the given covariates, with the time since the last dose in its place among them, if the model uses it.

    It counts from nominal dose times (additional doses included, lag times not), and is 0 before a subject's first dose
    and after a reset. Every dose is followed by an event that sets the covariates.
    """
    if SINCE_DOSE not in model.covariates:
        return data
    place, c = model.covariates.index(SINCE_DOSE), len(model.covariates)
    source, changes, is_change, starts = list[int](), list[np.ndarray](), list[bool](), [0]
    before, whens = data.before.copy(), list[float]()

    def emit(event: int, when: float, change: np.ndarray | None) -> None:
        source.append(event)
        whens.append(when)
        is_change.append(change is not None)
        changes.append(np.zeros(2 * c) if change is None else change)

    for subject in range(len(data)):
        first, stop = data.event_start[subject], data.event_start[subject + 1]
        rows = slice(data.row_start[subject], data.row_start[subject + 1])
        values, slopes, since, last = np.zeros(c - 1), np.zeros(c - 1), 0.0, None
        places = np.zeros(stop - first + 1, dtype=np.int64)  # number of new events before each old one
        begun = len(source)

        def setting(
            when: float, values: np.ndarray, slopes: np.ndarray, since: float, last: float | None
        ) -> np.ndarray:  # fmt: skip
            now = np.insert(values + slopes * (when - since), place, 0.0 if last is None else when - last)
            return np.concatenate([now, np.insert(slopes, place, 0.0 if last is None else 1.0)])

        if c == 1 or first == stop:
            start = float(min([*data.times[rows][:1], *data.when[first : first + 1]], default=0.0))
            emit(int(first) if first < stop else -1, start, setting(start, values, slopes, start, None))
            places[0] = len(source) - begun
        for event in range(first, stop):
            when, kind = float(data.when[event]), data.kind[event]
            if kind == COVARIATES:
                values, slopes, since = *np.split(data.covariates[event], 2), when
            else:
                emit(event, when, None)
                last = None if kind == RESET else when
            emit(event, when, setting(when, values, slopes, since, last))
            places[event - first + 1] = len(source) - begun
        before[rows] = places[data.before[rows]]
        starts.append(len(source))
    taken, change = np.array(source, dtype=np.int64), np.array(is_change, dtype=np.bool_)

    def of_dose(name: str) -> np.ndarray:
        values = getattr(data, name)
        return np.where(change, 0, values[taken] if len(values) else 0).astype(values.dtype)

    kind = of_dose("kind")
    kind[change] = COVARIATES
    return replace(
        data,
        before=before,
        event_start=np.array(starts, dtype=np.int64),
        when=np.array(whens, dtype=np.float64),
        kind=kind,
        covariates=np.array(changes, dtype=np.float64).reshape(len(changes), 2 * c),
        compartment=of_dose("compartment"),
        amount=of_dose("amount"),
        rate=of_dose("rate"),
        interval=of_dose("interval"),
    )
