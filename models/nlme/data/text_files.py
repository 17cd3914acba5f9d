"""Text files of events: which character separates the cells, which lines are ignored, which columns hold numbers."""

import io
import re
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.cells import MISSING

Decimal = Literal[".", ","]
SUFFIXES = (".csv", ".txt", ".dat", ".tab", ".tsv", ".prn")
_IGNORED = ("#", "@")  # a line that begins so is a comment, as with NM-TRAN's IGNORE=# and IGNORE=@
_COMMENTED = re.compile(r"[Cc]\s*[\d.+-]")  # as with IGNORE=C, where the cells below one another are numbers


class TextTable(NamedTuple):
    """The rows of a text file, and the number of lines that were ignored as comments."""

    rows: pa.Table
    ignored: int


def read_text(path: Path, decimal: Decimal = ".") -> TextTable:
    """Read a text file whose first line names the columns.

    The header decides the separator: ``;`` if it has one, else a tab, else a comma, else blanks. Empty lines are
    left out. Lines that begin with # or @ are comments, and so are those whose first cell is C, or C and a number
    among numbers. A column becomes whole numbers, else numbers, else text.

    Args:
        path: the file, in UTF-8.
        decimal: the decimal mark; with a comma, cells cannot be separated by commas.

    Raises:
        ConfigError: text in another encoding, no header or rows, or a row with more or fewer cells than the header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError("a table is not in UTF-8", where=f"{path}, line {line}", do="save it as UTF-8") from error
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip(" \t,;")]
    if "\0" in text or not lines:
        raise ConfigError("not a table", where=path, expected="text with a line of column names", got="none")
    before = len(lines)
    header, lines = _header(lines)
    separator = next((mark for mark in ";\t," if mark in header), " ")
    if decimal == "," and separator == ",":
        expected = "cells separated by semicolons, tabs or blanks where the decimal mark is a comma"
        raise ConfigError("not a table", where=path, expected=expected, got=repr(header[:60]))
    lines = [line for line in lines if not line.lstrip().startswith(_IGNORED)]
    lines = _without_commented(lines, separator)
    if not lines:
        raise ConfigError("a table has no rows", where=path, got="column names alone")
    ignored = before - 1 - len(lines)
    if separator == " ":
        header, lines, separator = "\t".join(header.split()), ["\t".join(line.split()) for line in lines], "\t"
    return TextTable(_typed(_cells(path, header, lines, separator), decimal), ignored)


def _header(lines: list[str]) -> tuple[str, list[str]]:
    """The line of column names, without a comment mark before it, and the lines below; comments above are left out."""
    for position, line in enumerate(lines):
        bare = line.lstrip().lstrip("".join(_IGNORED)).lstrip()
        names = {name.strip(' "').upper() for name in re.split(r"[;,\t ]", bare)}
        if bare == line.lstrip() or ("ID" in names and names & {"TIME", "DV", "Y"}):
            return bare, lines[position + 1 :]
    return lines[0].lstrip("".join(_IGNORED)), []


def _without_commented(lines: list[str], separator: str) -> list[str]:
    """Lines but those that a C in front of the first cell comments out."""
    firsts = [line.lstrip().split(None if separator == " " else separator, 1)[0].strip(' "') for line in lines]
    marked = [bool(first[:1] in ("C", "c") and (len(first) == 1 or _COMMENTED.match(first))) for first in firsts]
    if not any(marked):
        return lines
    others = [first for first, own in zip(firsts, marked, strict=True) if not own]
    numeric = others and all(not first or first[0] in "0123456789.+-" for first in others)
    return [line for line, own in zip(lines, marked, strict=True) if not own] if numeric else lines


def _cells(path: Path, header: str, lines: list[str], separator: str) -> pa.Table:
    """All cells as text."""
    wrong: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    content = io.BytesIO("\n".join([header, *lines, ""]).encode())
    names = pacsv.read_csv(io.BytesIO(f"{header}\n".encode()), parse_options=pacsv.ParseOptions(delimiter=separator))
    try:
        table = pacsv.read_csv(
            content,
            read_options=pacsv.ReadOptions(use_threads=False, block_size=1 << 26),
            parse_options=pacsv.ParseOptions(delimiter=separator, invalid_row_handler=note),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names.column_names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise ConfigError("not a table", where=path, expected="one line a row", got=error) from error
    if wrong:
        where = f"{path}, row {wrong[0].number - 1}" if wrong[0].number else f"{path}: {wrong[0].text[:60]}"
        expected, got = f"{wrong[0].expected_columns} cells, as in the header", wrong[0].actual_columns
        raise ConfigError("a row of a table has another number of cells", where=where, expected=expected, got=got)
    return table.rename_columns([name.strip() for name in table.column_names])


def _typed(table: pa.Table, decimal: Decimal) -> pa.Table:
    """Columns of numbers as such; missing cells are null."""
    columns = []
    for column in table.columns:
        trimmed = pc.utf8_trim_whitespace(column)
        known = pc.if_else(pc.is_in(trimmed, pa.array(MISSING)), None, trimmed)
        columns.append(_numbers(known, decimal) or known)
    return pa.table(columns, names=table.column_names)


def _numbers(known: pa.ChunkedArray, decimal: Decimal) -> pa.ChunkedArray | None:
    if known.null_count == len(known):
        return pa.chunked_array([pa.nulls(len(known))])
    if decimal == ",":
        if pc.any(pc.match_substring(known, ".")).as_py():
            return None
        known = pc.replace_substring(known, ",", ".")
    if pc.any(pc.match_substring(known, "x", ignore_case=True)).as_py():
        return None  # (Arrow would read 0x10 as a number)
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = known.cast(kind)
        except pa.ArrowInvalid:
            continue
        return numbers if pc.all(pc.is_finite(numbers)).as_py() else None
    return None
