"""The columns that a table may hold, under NM-TRAN's names, and what other programs call them.

docs/reference/nmtran.md has the written rule of every column; a test compares it with :data:`RULES`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.structural import OCCASION, StructuralModel, given_covariates

# number; flag (a number, or TRUE and FALSE); label (a number or any text); clock (a number, a time of day or a date)
Kind = Literal["number", "flag", "label", "clock"]


class ColumnRule(NamedTuple):
    """What a column holds, its value where the table does not have it, and its names in other programs' tables."""

    name: str
    kind: Kind = "number"
    default: float = 0.0
    synonyms: tuple[str, ...] = ()


RULES = (
    ColumnRule("ID", "label", np.nan),
    ColumnRule("TIME", "clock", np.nan),
    ColumnRule("EVID", default=np.nan),
    ColumnRule("AMT"),
    ColumnRule("RATE"),
    ColumnRule("CMT", "label", 1.0, ("ADM",)),
    ColumnRule("ADDL"),
    ColumnRule("II"),
    ColumnRule("SS", "flag"),
    ColumnRule("DV", default=np.nan, synonyms=("Y", "COBS")),
    ColumnRule("MDV", "flag", np.nan),
    ColumnRule("DVID", "label", 1.0, ("YTYPE", "OBSID")),
    ColumnRule("CENS", "flag", 0.0, ("BLQ", "BLOQ", "BQL")),
)
# Columns that decide others: the duration of an infusion, a limit of quantification, the end of an interval, the date.
AUXILIARY = (
    ColumnRule("TINF", default=np.nan),
    ColumnRule("LLOQ", default=np.nan, synonyms=("LOQ",)),
    ColumnRule("LIMIT", default=np.nan),
    ColumnRule("DATE", "clock", np.nan, ("DAT1", "DAT2", "DAT3")),
)
RULE = {rule.name: rule for rule in (*RULES, *AUXILIARY)}
REQUIRED = ("ID", "TIME")
DEFAULTS = {rule.name: rule.default for rule in RULES if rule.name not in REQUIRED}
WITHOUT_EFFECT = ("L1", "L2", "PCMT", "CALL", "CONT", "XVID1", "XVID2", "XVID3", "XVID4", "XVID5")  # NM-TRAN's
_SYNONYMS = {name.lower(): rule.name.lower() for rule in RULE.values() for name in rule.synonyms}


def column_names(names: Sequence[str], model: StructuralModel | None = None) -> dict[str, str]:
    """A table's own column names by NM-TRAN's in small letters; names that nothing is known of by themselves.

    A name of another program counts where the table has no column of NM-TRAN's name, and the model no such covariate.

    Raises:
        ConfigError: two columns whose names differ in case at most, or two that mean the same.
    """
    small = Counter(name.lower() for name in names)
    twice = [name for name in names if small[name.lower()] > 1]
    if twice:
        raise ConfigError("a table has a column twice", got=", ".join(twice), do="rename or remove one")
    covariates = {name.lower() for name in given_covariates(model)} if model else set()
    found: dict[str, str] = {}
    for own in names:
        name = own.lower()
        if name in _SYNONYMS and _SYNONYMS[name] not in small and name not in covariates:
            name = _SYNONYMS[name]
        if name in found:
            got = f"{found[name]}, {own}"
            raise ConfigError(f"two columns of a table both mean {name.upper()}", got=got, do="rename or remove one")
        found[name] = own
    return found


def kind_of(name: str, model: StructuralModel) -> Kind | None:
    """What a column of that (small) name holds; None if neither NM-TRAN nor the model knows it."""
    if name in {own.lower() for own in given_covariates(model)}:
        return "label" if model.occasions and name == OCCASION else "flag"
    rule = RULE.get(name.upper())
    return rule.kind if rule else None
