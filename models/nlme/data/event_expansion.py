"""From event tables to events in order: additional doses are expanded, changes of covariates become events."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.at_risk import with_time_at_risk
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.data.reading import Interpolation
from image_longitudinal.models.nlme.data.since_dose import with_time_since_dose
from image_longitudinal.models.nlme.kernels import records
from image_longitudinal.models.nlme.model.structural import OCCASION, StructuralModel
from image_longitudinal.models.nlme.model.symbolic import depends_on_time, likelihoods_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
# Order at one time: additional doses, then row by row (PLACES each), and within a row in the order of the second line.
FIRST, ADDITIONAL, PLACES = -2, -1, 8
CHANGE, RESET_AT, DOSE_AT, OBSERVED, AFTER = range(5)


class _Events(NamedTuple):
    """Events that come from rows of a table: (E,) each."""

    row: IntArray  # of the table
    when: FloatArray
    order: IntArray
    kind: IntArray


def expand_events(
    table: EventTable, model: StructuralModel, *, every_row: bool = False, first_row: int = 0
) -> PopulationData:
    """Observations and events of a table's subjects.

    Observations are the rows with EVID 0 and MDV not 1; with ``every_row`` (for predictions) all rows are, and DV may
    be missing. Subjects without observations stay. An observation at the time of a dose includes the dose if its row
    comes later or the dose is an additional one. Where time goes back at a reset, it counts on from the row above.

    Raises:
        ConfigError: an observation without DV, RATE -1 or -2 without a model for it, or time that goes back although
            the model's equations depend on it (names the row).
    """
    evid, time, n = table["EVID"], _ascending(table, model, first_row), len(table)
    new = np.concatenate([[True], np.diff(table["ID"]) != 0])
    subject, start = np.cumsum(new) - 1, np.flatnonzero(new)
    seen = np.ones(n, dtype=bool) if every_row else (evid == 0) & (table["MDV"] != 1)
    missing = np.flatnonzero(seen & np.isnan(table["DV"]))
    if len(missing) and not every_row:
        do = "give the value, set MDV to 1, or leave the row out"
        raise ConfigError("missing DV", where=table.where(missing[0], first_row), do=do)
    modelled = np.flatnonzero(np.isin(evid, (1, 4)) & (table["RATE"] < 0))
    if model.dosing is None and len(modelled):
        what = f"a dose whose rate or duration is a parameter, and model {model.name!r} has none"
        where, got = table.where(modelled[0], first_row), f"RATE {table['RATE'][modelled[0]]:g}"
        raise ConfigError(what, where=where, expected="RATE ≥ 0, or a model with dosing=", got=got)
    row = np.arange(n)
    dosed, reset = np.isin(evid, (1, 4)), np.isin(evid, (3, 4))
    kinds = np.choose(
        table["SS"].astype(np.int64).clip(0, 2), (records.DOSE, records.STEADY_STATE, records.STEADY_STATE_ADDED)
    )
    parts = [
        _Events(row[reset], time[reset], PLACES * row[reset] + RESET_AT, np.full(reset.sum(), records.RESET)),
        _Events(row[dosed], time[dosed], PLACES * row[dosed] + DOSE_AT, kinds[dosed]),
        _additional(table, time, subject, reset | (dosed & (table["SS"] == 1))),
    ]
    values, slopes, changes = _covariates(table, time, new)
    at, when, order, kind = (np.concatenate(columns) for columns in zip(*parts, changes, strict=True))
    sort = np.lexsort((order, when, subject[at]))
    at, when, order, kind = at[sort], when[sort], order[sort], kind[sort]
    rows = np.flatnonzero(seen)
    carried_back = (order > 0) & (order % PLACES == AFTER)
    source = np.where(carried_back, at + 1, at)  # the row whose covariates apply
    is_dose = kind <= records.STEADY_STATE_ADDED
    change = np.concatenate([values, slopes], axis=1)
    data = PopulationData(
        ids=table["ID"][start].astype(np.int64),
        labels=table.labels,
        row_start=np.searchsorted(subject[rows], np.arange(len(start) + 1)),
        times=time[rows],
        observed=np.nan_to_num(table["DV"][rows]),
        before=_before(when, order, subject[at], time[rows], PLACES * rows + OBSERVED, subject[rows]),
        endpoint=table.endpoint_index()[rows],
        censored=table["CENS"][rows] == 1,
        event_start=np.searchsorted(subject[at], np.arange(len(start) + 1)),
        when=when,
        kind=kind.astype(np.int64),
        compartment=np.where(is_dose, np.nan_to_num(table["CMT"][at], nan=1.0) - 1, 0).astype(np.int64),
        amount=np.where(is_dose, table["AMT"][at], 0.0),
        rate=np.where(is_dose, table["RATE"][at], 0.0),
        interval=np.where(is_dose & (kind != records.DOSE), table["II"][at], 0.0),
        covariates=np.where((kind == records.COVARIATES)[:, None], change[source], 0.0),
    )
    if model.likelihood is None:
        return with_time_since_dose(data, model)
    begins = np.where(data.censored, np.nan_to_num(table["LIMIT"][rows]), np.nan) if "LIMIT" in table.columns else None
    normal = ~np.isin(data.endpoint, [i for i, own in enumerate(likelihoods_of(model)) if own is not None])
    data = replace(data, censored=data.censored & normal)
    return with_time_at_risk(with_time_since_dose(data, model), model, begins, checked=not every_row)


def _ascending(table: EventTable, model: StructuralModel, first_row: int) -> FloatArray:
    """Times that do not go back within a subject: where one does, at a reset, the rest of the subject is moved on."""
    time, new = table["TIME"], np.append(True, np.diff(table["ID"]) != 0)
    back = np.append(False, np.diff(time) < 0) & ~new
    if not back.any():
        return time
    if depends_on_time(model):
        what = f"time goes back at a reset, and the equations of model {model.name!r} depend on time"
        do = "give the rows from there on an ID of their own"
        raise ConfigError(what, where=table.where(np.argmax(back), first_row), do=do)
    jump = np.where(back, np.append(0.0, -np.diff(time)), 0.0)
    total = np.cumsum(jump)
    return time + total - np.repeat(total[new], np.diff([*np.flatnonzero(new), len(time)]))


def _additional(table: EventTable, time: FloatArray, subject: IntArray, cancels: NDArray[np.bool_]) -> _Events:
    """Additional doses up to the subject's last row, unless a reset or a steady state comes first."""
    base = np.flatnonzero((table["ADDL"] > 0) & np.isin(table["EVID"], (1, 4)))
    count = table["ADDL"][base].astype(np.int64)
    last = time[np.searchsorted(subject, subject[base], side="right") - 1]
    stops = np.flatnonzero(cancels)
    following = np.searchsorted(stops, base, side="right")
    stop = np.append(stops, 0)[following]
    own = (following < len(stops)) & (subject[stop] == subject[base])
    end = np.where(own, np.minimum(last, time[stop]), last)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1
    row = np.repeat(base, count)
    when = time[row] + number * table["II"][row]
    kept = when <= np.repeat(end, count)
    return _Events(row[kept], when[kept], np.full(kept.sum(), ADDITIONAL), np.full(kept.sum(), records.DOSE))


def _covariates(
    table: EventTable, time: FloatArray, new: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, _Events]:  # fmt: skip
    """Value and slope of each covariate from each row on, (rows, c) both, and the events that set them."""
    n, c = len(table), len(table.covariates)
    values, slopes, row = np.empty((n, c)), np.zeros((n, c)), np.arange(n)
    for column, name in enumerate(table.covariates):
        given = table[name]
        how = "locf" if name == OCCASION and table.interpolation == "linear" else table.interpolation
        values[:, column] = given if np.isfinite(given).all() else _filled(table, time, given, how)
    if not c:
        return values, slopes, _Events(row[:0], time[:0], row[:0], row[:0])
    moved = np.append(False, (values[1:] != values[:-1]).any(axis=1)) & ~new
    first = np.flatnonzero(new)
    if table.interpolation == "linear":
        duration = np.append(np.diff(time), 0.0)
        inside = np.append(~new[1:], False) & (duration > 0)
        slopes[inside] = np.diff(values, axis=0)[inside[:-1]] / duration[inside][:, None]
        stepwise = np.array([name == OCCASION for name in table.covariates])  # (a number of occasions has no fraction)
        slopes[:, stepwise] = 0.0
        slope_changed = np.append(False, (slopes[1:] != slopes[:-1]).any(axis=1)) & ~new
        jumps = moved & np.append(False, np.diff(time) == 0)
        jumps |= np.append(False, (values[1:] != values[:-1])[:, stepwise].any(axis=1)) & ~new
        moved = slope_changed | jumps
    carried_back = table.interpolation == "nocb"
    at = np.flatnonzero(moved) - carried_back
    rows = np.concatenate([first, at])
    orders = np.concatenate([np.full(len(first), FIRST), PLACES * at + (AFTER if carried_back else CHANGE)])
    return values, slopes, _Events(rows, time[rows], orders, np.full(len(rows), records.COVARIATES))


def _filled(table: EventTable, time: FloatArray, given: FloatArray, interpolation: Interpolation) -> FloatArray:
    """A covariate with its missing values filled within each subject."""
    out = given.copy()
    for _, rows in table.subjects():
        known = np.flatnonzero(np.isfinite(given[rows]))
        position = np.arange(rows.stop - rows.start)
        if interpolation == "linear":
            own = time[rows]
            out[rows] = np.interp(own, own[known], given[rows][known])
        elif interpolation == "nocb":
            out[rows] = given[rows][known[np.searchsorted(known, position).clip(max=len(known) - 1)]]
        else:
            out[rows] = given[rows][known[(np.searchsorted(known, position, side="right") - 1).clip(min=0)]]
    return out


def _before(
    when: FloatArray, order: IntArray, subject: IntArray, time: FloatArray, row_order: IntArray, of_row: IntArray
) -> IntArray:
    """Number of its subject's events before each row, (rows,)."""
    who = np.concatenate([subject, of_row])
    sort = np.lexsort((np.concatenate([order, row_order]), np.concatenate([when, time]), who))
    total = np.empty(len(sort), dtype=np.int64)
    total[sort] = np.cumsum(sort < len(when))
    return total[len(when) :] - np.searchsorted(subject, of_row)  # (the latter: events of the subjects before)
