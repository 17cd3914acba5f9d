"""Cells of a column as numbers or labels; a cell that cannot be read is named by row."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError

FloatArray = NDArray[np.float64]
MISSING = ("", ".", "NA", "NaN", "nan")
FLAGS = {"TRUE": 1.0, "T": 1.0, "FALSE": 0.0, "F": 0.0}  # R's logical values
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds numbers (or nothing at all)."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type holds text, encoded as a dictionary or not."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_numbers(name: str, column: pa.ChunkedArray, *, flag: bool = False, first_row: int = 0) -> FloatArray:
    """A column as float64, NaN for missing cells.

    Args:
        name: of the column, for errors.
        column: numbers, text of numbers, or with ``flag`` also Booleans and TRUE, FALSE, T, F as text.
        flag: whether the column says yes or no.
        first_row: position of the column's first row in the whole table.

    Raises:
        ConfigError: a cell that is no number; names its row (from 1).
    """
    kind = column.type
    if flag and pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif is_text(kind):
        return by_distinct_text(column, lambda text: _number(text, flag), _refusal(name, flag), first_row)
    elif not is_number(kind):
        raise _refusal(name, flag)(first_row, f"values of type {kind}")
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowInvalid as error:
        what = f"column {name.upper()} of a table holds numbers that float64 cannot hold"
        raise ConfigError(what, expected="whole numbers up to 2**53", got=error) from error


def as_labels(name: str, column: pa.ChunkedArray, *, first_row: int = 0) -> NDArray[np.object_] | FloatArray:
    """A column of text as strings without blanks around them, "" for missing; one of numbers as :func:`as_numbers`.

    Text that holds numbers alone is numbers, except in ID: the ids of a subject are alike in all pieces of a table.
    """
    if not is_text(column.type):
        return as_numbers(name, column, first_row=first_row)
    values = np.array([(text or "").strip() for text in column.cast(pa.string()).to_pylist()], dtype=object)
    values[np.isin(values, MISSING)] = ""
    if name.upper() != "ID" and all(_number(text, False) is not None for text in set(values)):
        return np.array([float(text or "nan") for text in values])
    return values


def by_distinct_text(
    column: pa.ChunkedArray, read: Callable[[str], float | None], refusal: Callable[[int, str], ConfigError],
    first_row: int = 0,
) -> FloatArray:  # fmt: skip
    """The numbers that ``read`` makes of a column's texts, (rows,); a text of which it makes None is refused by row."""
    coded = pc.dictionary_encode(column.cast(pa.string())).combine_chunks()
    texts = coded.dictionary.to_pylist()
    values = [read(text.strip()) for text in texts]
    codes = coded.indices.to_numpy(zero_copy_only=False)
    codes = np.where(np.isnan(codes), len(values), codes).astype(np.int64)  # (null: one past the last)
    if None in values:
        bad = np.isin(codes, [i for i, value in enumerate(values) if value is None])
        row = int(np.argmax(bad))
        raise refusal(first_row + row, repr(texts[codes[row]]))
    return np.array([*values, np.nan], dtype=np.float64)[codes]


def plain_column(values: ArrayLike) -> pa.ChunkedArray:
    """A column of a table that Python holds: numbers, Booleans or text."""
    array = np.asarray(values)
    if array.dtype.kind == "b":  # Python's True is 1
        array = array.astype(np.int8)
    if array.dtype.kind in "OU":  # None and NaN are missing
        given = [None if cell is None or cell != cell else cell for cell in array.tolist()]
        if all(cell is None or isinstance(cell, int | float) for cell in given):
            return pa.chunked_array([pa.array(given, pa.float64())])
        return pa.chunked_array([pa.array([None if cell is None else str(cell) for cell in given], pa.string())])
    return pa.chunked_array([pa.array(array.ravel(), from_pandas=True)])


def _number(text: str, flag: bool) -> float | None:
    if text in MISSING:
        return np.nan
    if flag and text.upper() in FLAGS:
        return FLAGS[text.upper()]
    return float(text) if _NUMBER.fullmatch(text) and np.isfinite(float(text)) else None


def _refusal(name: str, flag: bool) -> Callable[[int, str], ConfigError]:
    def refuse(row: int, got: str) -> ConfigError:
        expected = "a number" + (" or TRUE or FALSE" if flag else "")
        comma = re.fullmatch(r"'[+-]?\d+,\d+'", got)
        do = "is the comma a decimal one? Then ask for it: --decimal , (decimal=',')" if comma else None
        what = f"column {name.upper()} of a table does not hold numbers"
        expected += ", or nothing, . or NA if it is missing"
        return ConfigError(what, where=f"row {row + 1}", expected=expected, got=got, do=do)

    return refuse
