"""Event tables in NM-TRAN's columns: doses and observations of a trial, checked row by row.

Rows are events of subjects in the order of time: EVID 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose. Time
may go back at a reset. A dose may have RATE (> 0 a rate; -1 or -2: rate or duration is a parameter), ADDL further doses
every II, and SS 1 (steady state in place of the present state) or 2 (added to the present state); SS with AMT 0 and II
0 is the steady state of an infusion at RATE that ends then. DVID numbers the endpoint of an observation; with CENS 1
the observation is below DV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data import derived
from image_longitudinal.models.nlme.data.cells import as_labels, as_numbers, plain_column
from image_longitudinal.models.nlme.data.columns import AUXILIARY, DEFAULTS, REQUIRED, RULES, kind_of
from image_longitudinal.models.nlme.data.endpoints import Labels, compartments, endpoint_numbers
from image_longitudinal.models.nlme.data.outcome_kinds import likelihood_rows
from image_longitudinal.models.nlme.data.reading import INTERPOLATIONS, Interpolation
from image_longitudinal.models.nlme.model.structural import OCCASION, StructuralModel, given_covariates
from image_longitudinal.models.nlme.model.symbolic import risks_of

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EventTable:
    """Checked event table: float64 columns of one length. Build it with :func:`event_table`.

    ``columns``: NM-TRAN's names and the model's covariates; ``covariates``: names of the latter; ``interpolation``: of
    covariates between rows; ``labels``: each subject's id where ids are text, and ID numbers the subjects 1, 2, ...
    """

    columns: dict[str, FloatArray]
    covariates: tuple[str, ...] = ()
    interpolation: Interpolation = "locf"
    labels: tuple[str, ...] | None = None

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
        return f"row {first_row + row + 1}, ID {self.id_of(row)}"

    def id_of(self, row: int | np.integer) -> str:
        """The id of a row's subject as the table has it."""
        number = self["ID"][row]
        return f"{number:.0f}" if self.labels is None else self.labels[int(number) - 1]

    def endpoint_index(self) -> NDArray[np.int64]:
        """0-based endpoint of every row, (rows,); 0 where DVID is missing or not given."""
        number = np.nan_to_num(self["DVID"], nan=1.0).astype(np.int64)
        return np.maximum(number - 1, 0)


def event_table(
    columns: Mapping[str, ArrayLike],
    model: StructuralModel,
    *,
    interpolation: Interpolation = "locf",
    endpoints: Sequence[tuple[str, str]] = (),
    first_row: int = 0,
) -> EventTable:
    """Check a table's columns (names in any case; ID and TIME are needed) against a model.

    Args:
        columns: NM-TRAN's columns and one for each of the model's covariates, all of one length: numbers, or text where
            docs/reference/nmtran.md allows it.
        model: the structural model.
        interpolation, endpoints: as in :class:`models.nlme.data.reading.Reading`.
        first_row: position of the first row in a larger table, to name rows in errors.

    Raises:
        ConfigError: names the column or row (1-based) and the problem.
    """
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(
            "unknown interpolation of covariates", expected=", ".join(INTERPOLATIONS), got=repr(interpolation)
        )
    known, needed = [*(rule.name for rule in RULES), *given_covariates(model)], [*REQUIRED, *given_covariates(model)]
    spelled = {name.upper(): name for name in (*(rule.name for rule in AUXILIARY if rule.name != "DATE"), *known)}
    unknown = [name for name in columns if name.upper() not in spelled]
    if unknown:
        raise ConfigError(
            f"event table has columns that model {model.name!r} does not know",
            expected=f"among {', '.join(known)}", got=", ".join(unknown), do="leave them out",
        )  # fmt: skip
    read = {spelled[name.upper()]: _values(name, values, model, first_row) for name, values in columns.items()}
    if not set(needed) <= set(read):
        raise ConfigError("event table lacks a column", expected=", ".join(needed), got=", ".join(read))
    n = len(read["ID"])
    for name, values in read.items():
        if values.shape != (n,):
            raise ConfigError(f"column {name} has another length than ID", expected=n, got=values.shape)
    if not n:
        raise ConfigError("event table has no rows")
    table = _completed(read, model, interpolation, endpoints, first_row)
    _check_order(table, first_row)
    _check_values(table, model, first_row)
    return table


def _values(name: str, values: ArrayLike, model: StructuralModel, first_row: int) -> Labels:
    column, kind = plain_column(values), kind_of(name.lower(), model)
    if kind == "label" and name.lower() != OCCASION:
        return as_labels(name, column, first_row=first_row)
    return as_numbers(name, column, flag=kind == "flag", first_row=first_row)


def _completed(
    read: Mapping[str, Labels], model: StructuralModel, interpolation: Interpolation,
    endpoints: Sequence[tuple[str, str]], first_row: int,
) -> EventTable:  # fmt: skip
    """The table with all columns as numbers: text as codes, missing columns and cells as derived or by default."""
    n, labels = len(read["ID"]), None
    full: dict[str, FloatArray] = {
        name: np.asarray(values, np.float64) for name, values in read.items() if values.dtype != object
    }
    if read["ID"].dtype == object:
        full["ID"], labels = _numbered(read["ID"], first_row)
    where_table = EventTable({"ID": full["ID"]}, labels=labels)

    def where(row: int | np.integer) -> str:
        return where_table.where(row, first_row)

    if "EVID" not in full:
        full["EVID"] = derived.event_kinds(full, n)
    dosed, observed = np.isin(full["EVID"], (1, 4)), full["EVID"] == 0
    full["DVID"] = endpoint_numbers(read.get("DVID"), read.get("CMT"), model, endpoints, observed, where)
    cmt = compartments(read["CMT"], model, endpoints, observed, where) if "CMT" in read else np.full(n, DEFAULTS["CMT"])
    full["CMT"] = np.where(dosed & (np.isnan(cmt) | (cmt == 0)), DEFAULTS["CMT"], cmt)
    if "TINF" in full and "RATE" not in full:
        full["RATE"] = derived.rates(full, dosed, where)
    if "DV" in full:
        normal = observed & (full.get("MDV", np.zeros(n)) != 1)
        if model.likelihood is not None:
            of_likelihood = likelihood_rows(full, model, normal, where)
            normal = normal & ~of_likelihood
        full["DV"] = derived.censored_values(full, normal, where)
    for name, default in DEFAULTS.items():
        full.setdefault(name, np.full(n, default))
    for name in ("AMT", "RATE", "ADDL", "II", "SS", "CENS"):
        full[name] = np.nan_to_num(full[name], nan=0.0, posinf=np.inf, neginf=-np.inf)
    limits = ["LIMIT"] if risks_of(model) and "LIMIT" in full else []
    names = (*(rule.name for rule in RULES), *limits, *given_covariates(model))
    return EventTable({name: full[name] for name in names}, given_covariates(model), interpolation, labels)


def _numbered(ids: Labels, first_row: int) -> tuple[FloatArray, tuple[str, ...]]:
    """Subjects numbered 1, 2, ... in the order of their rows, and the ids by number."""
    empty = np.flatnonzero(ids == "")
    if len(empty):
        raise ConfigError("event table: impossible ID", where=f"row {first_row + empty[0] + 1}", got="nothing")
    distinct, first, codes = np.unique(ids.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return (np.argsort(order)[codes] + 1).astype(np.float64), tuple(distinct[order].tolist())


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
    down = np.flatnonzero(np.concatenate([[False], np.diff(time) < 0]) & ~new & ~np.isin(table["EVID"], (3, 4)))
    if len(down):
        expected, where = f"≥ {time[down[0] - 1]:g}, or a reset (EVID 3, 4)", table.where(down[0], first_row)
        raise ConfigError("unsorted times", where=where, expected=expected, got=time[down[0]])


def _check_values(table: EventTable, model: StructuralModel, first_row: int) -> None:
    """Every value is possible, alone and together with the others of its row."""
    evid, dose, observed = table["EVID"], np.isin(table["EVID"], (1, 4)), table["EVID"] == 0
    amount, rate, interval, steady = table["AMT"], table["RATE"], table["II"], table["SS"]
    constant = (steady > 0) & (amount == 0) & (interval == 0) & (table["ADDL"] == 0)  # a constant infusion
    states, endpoints = len(model.states), len(model.endpoints)
    problems = (
        *((np.isinf(table[name]), name, "a finite number") for name in ("AMT", "RATE", "II", *table.covariates)),
        (~np.isin(evid, range(5)), "EVID", "0, 1, 2, 3 or 4"),
        (dose & (steady > 0) & (amount == 0) & (rate != 0) & (interval > 0), "II",
         "0 at the steady state of a constant infusion (AMT 0), or AMT > 0"),
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
        *_occasions(table, model),
    )  # fmt: skip
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
            where = f"ID {table.id_of(starts[subject])}, {rows}"
            raise ConfigError(f"covariate {name!r} is missing for a subject", where=where)


def _occasions(table: EventTable, model: StructuralModel) -> list[tuple[NDArray[np.bool_], str, str]]:
    """The check of occasions, if the model has them."""
    if not model.occasions:
        return []
    own = table[OCCASION]
    bad = ~np.isin(own, range(1, model.occasions + 1)) & ~np.isnan(own)
    return [(bad, OCCASION, f"1 to {model.occasions}, the model's occasions")]
