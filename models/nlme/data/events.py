"""Event tables in NM-TRAN's columns: doses and observations of a trial, checked row by row.

Rows are events of subjects in the order of time: EVID 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose. A dose
may have RATE (> 0 a rate; -1 or -2: rate or duration is a parameter), ADDL further doses every II, and SS 1 (steady
state in place of the present state) or 2 (added to the present state); SS with AMT 0 and II 0 is the steady state of an
infusion at RATE that ends then. DVID numbers the endpoint of an observation; with CENS 1 the observation is below DV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.structural import StructuralModel

FloatArray = NDArray[np.float64]
REQUIRED = ("ID", "TIME", "EVID")
DEFAULTS = {
    "AMT": 0.0, "RATE": 0.0, "CMT": 1.0, "ADDL": 0.0, "II": 0.0, "SS": 0.0, "DV": np.nan, "MDV": np.nan,
    "DVID": 1.0, "CENS": 0.0,
}  # fmt: skip
Interpolation = Literal["locf", "nocb", "linear"]
INTERPOLATIONS = get_args(Interpolation)


@dataclass(frozen=True, eq=False)
class EventTable:
    """Checked event table: float64 columns of one length. Build it with :func:`event_table`.

    ``columns``: NM-TRAN's names and the model's covariates; ``covariates``: names of the latter; ``interpolation``: of
    covariates between rows.
    """

    columns: dict[str, FloatArray]
    covariates: tuple[str, ...] = ()
    interpolation: Interpolation = "locf"

    def __len__(self) -> int:
        return len(self.columns["ID"])

    def __getitem__(self, name: str) -> FloatArray:
        return self.columns[name]

    def subjects(self) -> Iterator[tuple[int, slice]]:
        """Each subject's id and rows."""
        ids = self["ID"]
        cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        for start, stop in pairwise(cuts):
            yield int(ids[start]), slice(start, stop)

    def where(self, row: int | np.integer, first_row: int) -> str:
        """A row (0-based here, 1-based in the whole table that begins at ``first_row``) and its subject, for errors."""
        return f"row {first_row + row + 1}, ID {self['ID'][row]:.0f}"

    def endpoint_index(self) -> NDArray[np.int64]:
        """0-based endpoint of every row, (rows,); 0 where DVID is missing or not given."""
        number = np.nan_to_num(self["DVID"], nan=1.0).astype(np.int64)
        return np.maximum(number - 1, 0)


def event_table(
    columns: Mapping[str, ArrayLike],
    model: StructuralModel,
    *,
    interpolation: Interpolation = "locf",
    first_row: int = 0,
) -> EventTable:
    """Check a table's columns (names in any case; ID, TIME and EVID are needed) against a model.

    Args:
        columns: NM-TRAN's columns and one for each of the model's covariates, all of one length.
        model: the structural model.
        interpolation: of a covariate between its known rows: ``locf`` (the last value carried forward), ``nocb``
            (the next one carried backward) or ``linear``. Before the first and after the last value it is that value.
        first_row: position of the first row in a larger table, to name rows in errors.

    Raises:
        ConfigError: names the column or row (1-based) and the problem.
    """
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(
            "unknown interpolation of covariates", expected=", ".join(INTERPOLATIONS), got=repr(interpolation)
        )
    known, needed = [*REQUIRED, *DEFAULTS, *model.covariates], [*REQUIRED, *model.covariates]
    spelled = {name.upper(): name for name in known}
    unknown = [name for name in columns if name.upper() not in spelled]
    if unknown:
        raise ConfigError(
            f"event table has columns that model {model.name!r} does not know",
            expected=f"among {', '.join(known)}", got=", ".join(unknown), do="leave them out, or name them in ignore",
        )  # fmt: skip
    given = {spelled[name.upper()]: _numbers(name, values) for name, values in columns.items()}
    if not set(needed) <= set(given):
        raise ConfigError("event table lacks a column", expected=", ".join(needed), got=", ".join(given))
    n = len(given["ID"])
    full = {name: given[name] if name in given else np.full(n, DEFAULTS[name]) for name in known}
    for name, values in full.items():
        if values.shape != (n,):
            raise ConfigError(f"column {name} has another length than ID", expected=n, got=values.shape)
    for name in ("AMT", "RATE", "ADDL", "II", "SS", "CENS"):
        full[name] = np.nan_to_num(full[name], nan=0.0)
    table = EventTable(full, model.covariates, interpolation)
    if not n:
        raise ConfigError("event table has no rows")
    _check_order(table, first_row)
    _check_values(table, model, first_row)
    return table


def _numbers(name: str, values: ArrayLike) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"column {name} of the event table does not hold numbers", got=error) from error


def _check_order(table: EventTable, first_row: int) -> None:
    """Rows of each subject are together, and their times ascend."""
    time, ids = table["TIME"], table["ID"]
    for name, values in (("TIME", time), ("ID", ids)):
        if not np.isfinite(values).all():
            where = table.where(np.argmax(~np.isfinite(values)), first_row)
            raise ConfigError(f"event table: impossible {name}", where=where, expected="a finite number")
    if (ids % 1 != 0).any():
        row = np.argmax(ids % 1 != 0)
        where = table.where(row, first_row)
        raise ConfigError("event table: impossible ID", where=where, expected="a whole number", got=ids[row])
    new = np.concatenate([[True], np.diff(ids) != 0])
    starts = np.flatnonzero(new)
    again = np.delete(starts, np.unique(ids[starts], return_index=True)[1])
    if len(again):
        raise ConfigError("rows of a subject are not together", where=table.where(again[0], first_row))
    down = np.flatnonzero(np.concatenate([[False], np.diff(time) < 0]) & ~new)
    if len(down):
        expected, where = f"≥ {time[down[0] - 1]:g}", table.where(down[0], first_row)
        raise ConfigError("unsorted times", where=where, expected=expected, got=time[down[0]])


def _check_values(table: EventTable, model: StructuralModel, first_row: int) -> None:
    """Every value is possible, alone and together with the others of its row."""
    evid, dose, observed = table["EVID"], np.isin(table["EVID"], (1, 4)), table["EVID"] == 0
    amount, rate, interval, steady = table["AMT"], table["RATE"], table["II"], table["SS"]
    constant = (steady > 0) & (amount == 0) & (interval == 0) & (table["ADDL"] == 0)  # a constant infusion
    states, endpoints = len(model.states), len(model.endpoints)
    problems = (
        (~np.isin(evid, range(5)), "EVID", "0, 1, 2, 3 or 4"),
        (dose & ~((amount > 0) | constant), "AMT", "a positive amount in a dose row"),
        (~dose & (amount != 0), "AMT", "0 in a row without a dose"),
        (dose & ~((rate >= 0) | np.isin(rate, (-1, -2))), "RATE", "≥ 0, -1 or -2"),
        (dose & constant & (rate == -2), "RATE", "≥ 0 or -1 at the steady state of a constant infusion"),
        (dose & ~np.isin(table["CMT"], range(1, states + 1)), "CMT", f"1 to {states}"),
        (dose & ~np.isin(steady, (0, 1, 2)), "SS", "0, 1 or 2"),
        (dose & ~((table["ADDL"] >= 0) & (table["ADDL"] % 1 == 0)), "ADDL", "a whole number ≥ 0"),
        (dose & ((table["ADDL"] > 0) | (steady > 0)) & ~constant & ~(interval > 0), "II", "> 0 with ADDL or SS"),
        (~(np.isin(table["MDV"], (0, 1)) | np.isnan(table["MDV"])), "MDV", "0, 1 or missing"),
        (~np.isin(table["CENS"], (0, 1)), "CENS", "0 or 1"),
        (observed & ~np.isin(table["DVID"], range(1, endpoints + 1)), "DVID", f"1 to {endpoints}"),
        (np.isinf(table["DV"]), "DV", "a finite number or missing"),
    )
    for bad, column, expected in problems:
        if bad.any():
            row = np.argmax(bad)
            where, got = table.where(row, first_row), table[column][row]
            raise ConfigError(f"event table: impossible {column}", where=where, expected=expected, got=got)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(table["ID"]) != 0]))
    for name in table.covariates:
        known = np.add.reduceat(np.isfinite(table[name]).astype(np.int64), starts)
        if (known == 0).any():
            subject = int(np.argmax(known == 0))
            last = [*starts, len(table)][subject + 1]
            rows = f"rows {first_row + starts[subject] + 1} to {first_row + last}"
            where = f"ID {table['ID'][starts[subject]]:.0f}, {rows}"
            raise ConfigError(f"covariate {name!r} is missing for a subject", where=where)
