"""From event tables to events in order: additional doses are expanded, changes of covariates become events."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.events import EventTable
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.kernels import records
from image_longitudinal.models.nlme.model.structural import StructuralModel

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
    comes later or the dose is an additional one.

    Raises:
        ConfigError: an observation without DV, or RATE -1 or -2 without a model for it (names the row).
    """
    evid, time, n = table["EVID"], table["TIME"], len(table)
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
        _additional(table, subject, reset | (dosed & (table["SS"] == 1))),
    ]
    values, slopes, changes = _covariates(table, new)
    at, when, order, kind = (np.concatenate(columns) for columns in zip(*parts, changes, strict=True))
    sort = np.lexsort((order, when, subject[at]))
    at, when, order, kind = at[sort], when[sort], order[sort], kind[sort]
    rows = np.flatnonzero(seen)
    carried_back = (order > 0) & (order % PLACES == AFTER)
    source = np.where(carried_back, at + 1, at)  # the row whose covariates apply
    is_dose = kind <= records.STEADY_STATE_ADDED
    change = np.concatenate([values, slopes], axis=1)
    return PopulationData(
        ids=table["ID"][start].astype(np.int64),
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


def _additional(table: EventTable, subject: IntArray, cancels: NDArray[np.bool_]) -> _Events:
    """Additional doses up to the subject's last row, unless a reset or a steady state comes first."""
    base = np.flatnonzero((table["ADDL"] > 0) & np.isin(table["EVID"], (1, 4)))
    count = table["ADDL"][base].astype(np.int64)
    last = table["TIME"][np.searchsorted(subject, subject[base], side="right") - 1]
    stops = np.flatnonzero(cancels)
    following = np.searchsorted(stops, base, side="right")
    stop = np.append(stops, 0)[following]
    own = (following < len(stops)) & (subject[stop] == subject[base])
    end = np.where(own, np.minimum(last, table["TIME"][stop]), last)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1
    row = np.repeat(base, count)
    when = table["TIME"][row] + number * table["II"][row]
    kept = when <= np.repeat(end, count)
    return _Events(row[kept], when[kept], np.full(kept.sum(), ADDITIONAL), np.full(kept.sum(), records.DOSE))


def _covariates(table: EventTable, new: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray, _Events]:
    """Value and slope of each covariate from each row on, (rows, c) both, and the events that set them."""
    n, c, time = len(table), len(table.covariates), table["TIME"]
    values, slopes, row = np.empty((n, c)), np.zeros((n, c)), np.arange(n)
    for column, name in enumerate(table.covariates):
        given = table[name]
        values[:, column] = given if np.isfinite(given).all() else _filled(table, given)
    if not c:
        return values, slopes, _Events(row[:0], time[:0], row[:0], row[:0])
    moved = np.append(False, (values[1:] != values[:-1]).any(axis=1)) & ~new
    first = np.flatnonzero(new)
    if table.interpolation == "linear":
        duration = np.append(np.diff(time), 0.0)
        inside = np.append(~new[1:], False) & (duration > 0)
        slopes[inside] = np.diff(values, axis=0)[inside[:-1]] / duration[inside][:, None]
        slope_changed = np.append(False, (slopes[1:] != slopes[:-1]).any(axis=1)) & ~new
        jumps = moved & np.append(False, np.diff(time) == 0)
        moved = slope_changed | jumps
    carried_back = table.interpolation == "nocb"
    at = np.flatnonzero(moved) - carried_back
    rows = np.concatenate([first, at])
    orders = np.concatenate([np.full(len(first), FIRST), PLACES * at + (AFTER if carried_back else CHANGE)])
    return values, slopes, _Events(rows, time[rows], orders, np.full(len(rows), records.COVARIATES))


def _filled(table: EventTable, given: FloatArray) -> FloatArray:
    """A covariate with its missing values filled within each subject."""
    out = given.copy()
    for _, rows in table.subjects():
        known = np.flatnonzero(np.isfinite(given[rows]))
        position = np.arange(rows.stop - rows.start)
        if table.interpolation == "linear":
            time = table["TIME"][rows]
            out[rows] = np.interp(time, time[known], given[rows][known])
        elif table.interpolation == "nocb":
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
