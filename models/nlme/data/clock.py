"""Times of day and dates as time since a subject's first row, as NM-TRAN reads TIME and DATE."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.cells import by_distinct_text, is_number, is_text

FloatArray = NDArray[np.float64]
HOURS = {"h": 1.0, "hour": 1.0, "hours": 1.0, "min": 1 / 60, "day": 24.0, "days": 24.0, "d": 24.0, "week": 168.0}
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)


def is_clock(column: pa.ChunkedArray) -> bool:
    """Whether a column of times holds times of day or dates rather than numbers: by its type, or its first text."""
    if is_number(column.type):
        return False
    if is_text(column.type):
        first = next((text for text in column.cast(pa.string()).to_pylist() if text), "")
        return not _NUMBER.fullmatch(first.strip())
    return True


def elapsed(time: pa.ChunkedArray, date: pa.ChunkedArray | None, new: NDArray[np.bool_], unit: str,
            first_row: int = 0) -> FloatArray:  # fmt: skip
    """Time since the first row of each subject.

    Args:
        time: times of day (``hh:mm`` or ``hh:mm:ss``), ISO dates with or without a time, or Arrow timestamps.
        date: ISO dates to which times of day belong, or None.
        new: whether a row is a subject's first, (rows,).
        unit: of the result, a key of :data:`HOURS`.
        first_row: position of the first row in the whole table.

    Raises:
        ConfigError: a cell that is neither (names its row), or an unknown unit.
    """
    if unit not in HOURS:
        do = "write TIME as numbers in the model's unit"
        raise ConfigError("times of day and dates cannot be read in the model's unit", got=unit, do=do)
    hours = _hours("TIME", time, first_row)
    if date is not None:
        hours = hours + _hours("DATE", date, first_row)
    start = hours[np.flatnonzero(new)]
    return (hours - np.repeat(start, np.diff([*np.flatnonzero(new), len(hours)]))) / HOURS[unit]


def _hours(name: str, column: pa.ChunkedArray, first_row: int) -> FloatArray:
    if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
        if pa.types.is_time(column.type):
            column = column.cast(pa.string())
        else:
            known = column.cast(pa.timestamp("us", getattr(column.type, "tz", None))).cast(pa.int64())
            return np.asarray(known.cast(pa.float64()).to_numpy(zero_copy_only=False)) / 3.6e9
    if not is_text(column.type) and not pa.types.is_string(column.type):
        raise _refusal(name)(first_row, f"values of type {column.type}")
    return by_distinct_text(column, _read_date if name == "DATE" else _read, _refusal(name), first_row)


def _read(text: str) -> float | None:
    clock = _CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = clock.groups()
        return float(hours) + float(minutes) / 60 + float(seconds or 0) / 3600
    return _read_date(text)


def _read_date(text: str) -> float | None:
    """Hours since 1970 of an ISO date or date and time."""
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo else (moment - _EPOCH) / timedelta(hours=1)


def _refusal(name: str) -> Callable[[int, str], ConfigError]:
    def refuse(row: int, got: str) -> ConfigError:
        expected = "yyyy-mm-dd" if name == "DATE" else "a number, hh:mm, hh:mm:ss or yyyy-mm-dd hh:mm, all alike"
        what = f"column {name} of a table holds no time"
        return ConfigError(what, where=f"row {row + 1}", expected=expected, got=got)

    return refuse
