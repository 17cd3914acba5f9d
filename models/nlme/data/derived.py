"""Columns that follow from others: EVID as NM-TRAN derives it, rates from durations, limits of quantification."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError

FloatArray = NDArray[np.float64]
Where = Callable[[int | np.integer], str]  # names a row


def event_kinds(given: Mapping[str, FloatArray], n: int) -> FloatArray:
    """EVID of a table without this column, as NM-TRAN supplies it.

    1 where AMT, RATE, ADDL, II or SS is not 0 (and MDV is not 0), else 2 where MDV is 1, else 0.
    """
    dosed = np.zeros(n, dtype=bool)
    for name in ("AMT", "RATE", "TINF", "ADDL", "II", "SS"):
        if name in given:
            dosed |= np.nan_to_num(given[name]) != 0
    missing = given.get("MDV", np.full(n, np.nan))
    return np.where(dosed & (missing != 0), 1.0, np.where(missing == 1, 2.0, 0.0))


def rates(given: Mapping[str, FloatArray], dosed: NDArray[np.bool_], where: Where) -> FloatArray:
    """RATE from AMT and TINF, the duration of an infusion (0 or missing: a bolus); ConfigError for one below 0."""
    duration, amount = np.nan_to_num(given["TINF"]), given.get("AMT", np.zeros(len(dosed)))
    bad = dosed & ~((duration >= 0) & np.isfinite(duration))
    if bad.any():
        row = int(np.argmax(bad))
        raise ConfigError(
            "event table: impossible TINF", where=where(row), expected="a duration ≥ 0", got=given["TINF"][row]
        )
    return np.divide(amount, duration, out=np.zeros(len(dosed)), where=dosed & (duration > 0))


def limited(
    given: Mapping[str, FloatArray], observed: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.bool_]]:  # fmt: skip
    """DV, in which LLOQ (where the table has it) stands for observations with CENS 1, and which rows these are."""
    dv = given["DV"]
    marked = observed & (np.nan_to_num(given["CENS"]) == 1) if "CENS" in given else np.zeros(len(dv), dtype=bool)
    limit = given.get("LLOQ", np.full(len(dv), np.nan))
    return np.where(marked & ~np.isnan(limit), limit, dv), marked


def censored_values(given: Mapping[str, FloatArray], observed: NDArray[np.bool_], where: Where) -> FloatArray:
    """DV, in which an observation with CENS 1 is its limit of quantification: LLOQ where the table has it, else DV.

    Raises:
        ConfigError: a censored observation without a limit or with DV above it, an observation below LLOQ that CENS
            does not mark, or a LIMIT: intervals are not supported.
    """
    dv, none = given["DV"], np.full(len(given["DV"]), np.nan)
    limit, other = given.get("LLOQ", none), given.get("LIMIT", none)
    new, marked = limited(given, observed)
    problems = (
        (observed & ~np.isnan(other), "LIMIT", other, "none: an observation in an interval is not supported"),
        (marked & (dv > limit), "DV", dv, "at most LLOQ where CENS (or BLQ) is 1"),
        (marked & np.isnan(new), "DV", dv, "the limit of quantification where CENS (or BLQ) is 1, in DV or LLOQ"),
        (observed & ~marked & (dv < limit), "DV", dv, "CENS (or BLQ) 1 at an observation below LLOQ"),
    )
    for bad, name, values, expected in problems:
        if bad.any():
            row = int(np.argmax(bad))
            raise ConfigError(f"event table: impossible {name}", where=where(row), expected=expected, got=values[row])
    return new
