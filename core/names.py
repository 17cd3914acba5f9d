"""Types of names and digests that are read from data: each is checked once, where a document is parsed."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

MAX_PATH: Final = 1000  # characters
MAX_NAME: Final = 200  # characters, of one part of a path; file systems take 255 bytes
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows


def _not_reserved(name: str) -> str:
    if _RESERVED.fullmatch(name) or name.endswith("."):
        raise ValueError(f"a name that no operating system reserves is expected, got {name!r}")
    return name


def _printable(text: str) -> str:
    """A ValueError names the first control, format or unassigned character, or line separator."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"):
            raise ValueError(f"printable text is expected, got {text[:80]!a}")
    return text


def _printable_lines(text: str) -> str:
    _printable(text.replace("\n", " "))
    return text


def _inside(path: str) -> str:
    """A path that stays below the folder it is relative to, on every operating system."""
    parts = PurePosixPath(path).parts
    wrong = not parts or path.startswith("/") or ".." in parts or "\\" in path or len(path) > MAX_PATH
    if wrong or any(len(part) > MAX_NAME for part in parts):
        raise ValueError(f"a path inside the data set is expected, got {path[:80]!a}")
    return path


FileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100), AfterValidator(_not_reserved)
]
"""Becomes part of a file's name: ASCII letters, digits, dots, underscores and dashes, beginning with one of the first
two; not a device of Windows."""

Label = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
"""Is shown to people, or names a column: printable, without line breaks and control characters."""

Paragraphs = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_printable_lines)]
"""As :data:`Label`, longer and with line breaks."""

RelativePath = Annotated[str, AfterValidator(_printable), AfterValidator(_inside)]
"""The path of a file below a folder, with forward slashes."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256: 64 hex digits."""
