"""Times of events in the data: when risk begins, and the interval in which an event was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.kernels.records import COVARIATES, RESET, STEADY_STATE, STEADY_STATE_ADDED
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import Risk, risks_of

if TYPE_CHECKING:
    from image_longitudinal.models.nlme.data.population_data import PopulationData

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KNOWN = -1.0  # value of the covariate of an endpoint whose event was not in an interval (model.time_to_event.Event)


class _Added(NamedTuple):
    """Events that set covariates: subject, time, number of the subject's events before, each (A,)."""

    subject: IntArray
    when: FloatArray
    position: IntArray


def with_time_at_risk(
    data: PopulationData, model: StructuralModel, begins: FloatArray | None = None, *, checked: bool = True
) -> PopulationData:
    """Data with what the model's times of events need: integration from time 0 on, and a covariate for each.

    Args:
        data: with the model's own covariates.
        model: the structural model.
        begins: (N,), of observations that are events in an interval the time at which it begins, else NaN.
        checked: whether every row is an observation, of which an event has one.

    Raises:
        ConfigError: times before 0, two observations of an event in one subject, an interval that does not begin before
            its end, covariates that change under a hazard in closed form, a steady state or reset under an integrated
            one.
    """
    risks = risks_of(model)
    if not risks:
        return data
    begins = np.full(len(data.times), np.nan) if begins is None else begins
    _check(data, model, risks)
    if checked:
        _check_rows(data, model, risks, begins)
    c, n = data.covariates.shape[1] // 2, len(data)
    own = np.repeat(np.arange(n), np.diff(data.event_start))  # subject of each event
    late = np.flatnonzero((_first(data.when, data.event_start) > 0.0) | (c == 0))
    added = [_Added(late, np.zeros(len(late)), np.zeros(len(late), dtype=np.int64))]
    values = np.full((n, len(risks)), KNOWN)  # begin of each subject's interval
    of_row = data.subject_of_row
    for column, risk in enumerate(risks):
        rows = np.flatnonzero((data.endpoint == risk.endpoint) & np.isfinite(begins))
        values[of_row[rows], column] = begins[rows]
        inside = rows[begins[rows] > 0.0]
        if risk.is_integrated and len(inside):
            subject, at = of_row[inside], begins[inside]
            ranges = zip(data.event_start[subject], data.event_start[subject + 1], at, strict=True)
            earlier = [np.searchsorted(data.when[start:stop], time) for start, stop, time in ranges]
            added.append(_Added(subject, at, np.array(earlier, dtype=np.int64)))
    new = _Added(*(np.concatenate(columns) for columns in zip(*added, strict=True)))
    order = np.lexsort((
        np.concatenate([np.arange(len(own)) - data.event_start[own], new.position]) * 2
        + np.concatenate([np.ones(len(own), np.int64), np.zeros(len(new.when), np.int64)]),
        np.concatenate([own, new.subject]),
    ))  # fmt: skip
    who, when = np.concatenate([own, new.subject])[order], np.concatenate([data.when, new.when])[order]
    source = np.concatenate([np.arange(len(own)), np.full(len(new.when), -1)])[order]

    def of_events(name: str, otherwise: float) -> NDArray[Any]:
        column = getattr(data, name)
        return np.append(column, otherwise)[source].astype(column.dtype)  # (the last one where the source is -1)

    kind = of_events("kind", COVARIATES).astype(np.int64)
    sets, covariates = kind == COVARIATES, np.zeros((len(order), 2 * (c + len(risks))))
    own_values = _carried(data, source, who, when, sets)
    covariates[:, :c], covariates[:, c + len(risks) : 2 * c + len(risks)] = own_values[:, :c], own_values[:, c:]
    for column, risk in enumerate(risks):
        begin = values[who, column]
        now = np.where(begin < 0.0, KNOWN, np.where(when < begin, 1.0, 0.0)) if risk.is_integrated else begin
        covariates[:, c + column] = now
    covariates[~sets] = 0.0
    before = data.before.copy()
    before += np.isin(of_row, late)
    for subject, at, position in zip(*(column[len(late) :] for column in new), strict=True):
        where = slice(data.row_start[subject], data.row_start[subject + 1])
        before[where] += (data.times[where] > at) | (data.before[where] > position)
    return replace(
        data,
        before=before,
        event_start=np.searchsorted(who, np.arange(n + 1)),
        when=when,
        kind=kind,
        compartment=of_events("compartment", 0),
        amount=of_events("amount", 0.0),
        rate=of_events("rate", 0.0),
        interval=of_events("interval", 0.0),
        covariates=covariates,
    )


def _first(values: FloatArray, start: IntArray) -> FloatArray:
    """The first of each subject's values, infinity without any."""
    return np.where(np.diff(start) > 0, np.append(values, np.inf)[start[:-1]], np.inf)


def _carried(
    data: PopulationData, source: IntArray, who: IntArray, when: FloatArray, sets: NDArray[np.bool_]
) -> FloatArray:  # fmt: skip
    """The model's own covariates and slopes at each event that sets them, (E, 2c): of new ones as they then are."""
    width = data.covariates.shape[1]
    out = np.zeros((len(source), width))
    old = np.flatnonzero((source >= 0) & sets)
    out[old] = data.covariates[source[old]]
    for event in np.flatnonzero(source < 0) if width else ():
        same = old[who[old] == who[event]]
        earlier = same[same < event]
        at = earlier[-1] if len(earlier) else same[0]
        out[event] = out[at]
        if len(earlier):
            out[event, : width // 2] += out[at, width // 2 :] * (when[event] - when[at])
        else:
            out[event, width // 2 :] = 0.0
    return out


def _check_rows(data: PopulationData, model: StructuralModel, risks: tuple[Risk, ...], begins: FloatArray) -> None:
    """Each subject has at most one observation of an event, and an interval begins before it ends."""
    of_row = data.subject_of_row
    for risk in risks:
        name, rows = model.endpoints[risk.endpoint], np.flatnonzero(data.endpoint == risk.endpoint)
        counts = np.bincount(of_row[rows], minlength=len(data))
        if (counts > 1).any():
            what, where = f"several observations of event {name!r}", f"subject {data.names[int(np.argmax(counts > 1))]}"
            do = "one row: DV 1 at the event or 0 at the last time without it; LIMIT for an interval"
            raise ConfigError(what, where=where, expected="one of a subject", got=int(counts.max()), do=do)
        wrong = rows[begins[rows] >= data.times[rows]]
        if len(wrong):
            where = f"subject {data.names[of_row[wrong[0]]]}, time {data.times[wrong[0]]:g}"
            raise ConfigError(
                f"impossible interval of event {name!r}",
                where=where,
                expected="LIMIT before TIME",
                got=begins[wrong[0]],
            )


def _check(data: PopulationData, model: StructuralModel, risks: tuple[Risk, ...]) -> None:
    """Times, doses and covariates under which the hazards are what they are said to be."""
    of_row = data.subject_of_row
    early = data.times < 0.0
    if early.any() or (data.when < 0.0).any():
        what = f"a time before 0, and a subject of model {model.name!r} is at risk of an event from time 0 on"
        where = f"subject {data.names[of_row[int(np.argmax(early))]]}" if early.any() else "an event"
        raise ConfigError(what, where=where, do="count time from the begin of the risk")
    c, kinds = data.covariates.shape[1] // 2, (RESET, STEADY_STATE, STEADY_STATE_ADDED)
    of_event = np.repeat(np.arange(len(data)), np.diff(data.event_start))
    for risk in risks:
        name = model.endpoints[risk.endpoint]
        if risk.is_integrated and np.isin(data.kind, kinds).any():
            event = int(np.argmax(np.isin(data.kind, kinds)))
            what = f"a reset or steady state, and model {model.name!r} integrates the hazard of event {name!r}"
            where = f"subject {data.names[of_event[event]]}, time {data.when[event]:g}"
            raise ConfigError(what, where=where, do="begin at time 0 with single doses")
        for covariate in risk.constant:
            column, sets = model.covariates.index(covariate), data.kind == COVARIATES
            own, subject = data.covariates[sets], of_event[sets]
            same = np.append(False, subject[1:] == subject[:-1])
            moved = same & np.append(False, own[1:, column] != own[:-1, column]) | (own[:, c + column] != 0.0)
            if moved.any():
                what = f"covariate {covariate!r} changes in time, and the hazard of event {name!r} is in closed form"
                do = "write TimeToEvent(hazard=...), which is integrated"
                raise ConfigError(what, where=f"subject {data.names[subject[int(np.argmax(moved))]]}", do=do)
