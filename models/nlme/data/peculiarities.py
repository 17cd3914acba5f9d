"""What is unusual about a table and decides how it is read: found before the first piece of it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data import derived
from image_longitudinal.models.nlme.data.cells import as_labels, as_numbers, is_number
from image_longitudinal.models.nlme.data.clock import is_clock
from image_longitudinal.models.nlme.data.columns import RULE, kind_of
from image_longitudinal.models.nlme.data.endpoints import Labels
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.model.structural import OCCASION, StructuralModel, given_covariates

FloatArray = NDArray[np.float64]
MISSING_CODE = -99.0  # of covariates, in tables that were made for NONMEM
LONG_KNOWN = ("adm", "y", "ytype", "obsid")  # other programs' names that the first reader understood


class Occasions(NamedTuple):
    """Labels of occasions in the order of their numbers 1, 2, ...; None if the table has the numbers themselves."""

    labels: tuple[str, ...] | None = None

    def numbers(self, column: Labels, first_row: int) -> FloatArray:
        """A column's labels as numbers of occasions, NaN where they are missing."""
        if self.labels is None:
            return np.asarray(column, dtype=np.float64)
        codes = {label: float(number) for number, label in enumerate(self.labels, 1)}
        return np.array([codes.get(_label(value), np.nan) for value in column])


class Peculiarities(NamedTuple):
    """What is unusual about a table.

    ``notes``: a sentence on each; ``rules``: those by which a table is read that an earlier version read otherwise
    without a word, for digests; ``occasions``; ``coded_missing``: covariates in which -99 is a missing value.
    """

    notes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    occasions: Occasions = Occasions()
    coded_missing: tuple[str, ...] = ()


def peculiarities(
    rows: pads.Dataset, names: Mapping[str, str], model: StructuralModel, reading: Reading
) -> tuple[Peculiarities, tuple[str, ...]]:
    """What is unusual, and which known columns have no use beside others: RATE makes TINF one, numbers in TIME DATE.

    Args:
        rows: the table.
        names: its column names by NM-TRAN's, in small letters.
        model: whose covariates it has.
        reading: what a person says about it.

    Raises:
        ConfigError: more occasions than the model has.
    """
    schema = rows.schema

    def column(name: str) -> pa.ChunkedArray:
        return rows.to_table(columns=[names[name]]).column(0)

    notes, rules, without = [], [], []
    if "rate" in names and "tinf" in names:
        without.append("tinf")
    if not is_number(schema.field(names["time"]).type) and is_clock(column("time")):
        notes.append(f"TIME holds times of day or dates: it is the time since each subject's first row, "
                     f"in {reading.time_unit}.")  # fmt: skip
        rules.append("clock")
    elif "date" in names:
        without.append("date")
    known = [name for name in names if kind_of(name, model) and name not in without]
    for name in known:
        own = names[name]
        if name not in ("id", "time") and not is_number(schema.field(own).type):
            rules.append(f"{name} as text")
        if name == "tinf" or (own.lower() not in (name, *LONG_KNOWN) and name not in ("lloq", "date")):
            rules.append(f"{own} is {RULE[name.upper()].name}")
    if reading.endpoints:
        rules.append("endpoints " + ", ".join(f"{name}={value}" for name, value in reading.endpoints))
    elif len(model.endpoints) > 1 and "dvid" not in names and "cmt" in names:
        rules.append("endpoints by CMT")
    coded = []
    for name in (name.lower() for name in given_covariates(model)):
        if name == OCCASION and model.occasions:
            continue
        values = as_numbers(name, column(name), flag=True)
        count = int((values == MISSING_CODE).sum())
        if count:
            row = int(np.argmax(values == MISSING_CODE)) + 1
            notes.append(f"{name.upper()} is -99 in {count} rows (the first is row {row}): taken for missing.")
            rules.append(f"{name} -99")
            coded.append(name)
    occasions = Occasions()
    if model.occasions:
        occasions = _occasions(as_labels(OCCASION, column(OCCASION)), model.occasions)
        if occasions.labels is not None:
            pairs = ", ".join(f"{label} is {number}" for number, label in enumerate(occasions.labels, 1))
            notes.append(f"Occasions are numbered: {pairs}.")
            rules.append(f"occasions {pairs}")
    if "lloq" in names and "cens" in names and _limits_differ(column, names):
        notes.append("LLOQ is the limit of quantification of observations with CENS 1, in place of DV.")
        rules.append("lloq")
    if "evid" not in names:
        notes.append("EVID is derived: 1 where AMT, RATE, ADDL, II or SS is not 0, else 2 where MDV is 1, else 0.")
    if model.states and not {"amt", "evid"} & set(names):
        notes.append("The table has no doses.")
    return Peculiarities(tuple(notes), tuple(rules), occasions, tuple(coded)), tuple(without)


def _occasions(column: Labels, most: int) -> Occasions:
    """The numbering of a table's occasions: their own numbers if they are 1 to ``most``, else by order."""
    if column.dtype != object:
        distinct = np.unique(column[~np.isnan(column)])
        if np.isin(distinct, range(1, most + 1)).all():
            return Occasions()
        labels = [_label(value) for value in distinct]
    else:
        labels = sorted({_label(value) for value in column} - {""})
    if len(labels) > most:
        raise ConfigError(
            "the table has more occasions than the model", expected=f"at most {most}, with_occasions(..., occasions=)",
            got=f"{len(labels)}: {', '.join(labels[:8])}",
        )  # fmt: skip
    return Occasions(tuple(labels))


def _label(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    number = float(value)  # type: ignore[arg-type]
    return "" if np.isnan(number) else f"{number:g}"


def _limits_differ(column: Callable[[str], pa.ChunkedArray], names: Mapping[str, str]) -> bool:
    """Whether LLOQ changes any censored observation."""
    wanted = [name for name in ("cens", "lloq", "dv", "evid", "mdv") if name in names]
    read = {name.upper(): as_numbers(name, column(name), flag=name in ("cens", "mdv")) for name in wanted}
    observed = (read.get("EVID", np.zeros(len(read["CENS"]))) == 0) & (read.get("MDV", np.zeros(1)) != 1)
    if "DV" not in read:
        return False
    new, marked = derived.limited(read, observed)
    return bool((marked & ~(new == read["DV"])).any())
