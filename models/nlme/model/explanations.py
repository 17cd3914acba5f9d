"""Errors in a person's model file as one line: the file's line, what is wrong, and the cure."""

import linecache
from collections.abc import Callable
from traceback import extract_tb
from typing import Any

from image_longitudinal.core.errors import ConfigError, ImageLongitudinalError

_OURS, _LIBRARIES = "/models/nlme/model/", ("/site-packages/", "/dist-packages/", "<")
_FUNCTIONS = "exp, log, sqrt, where, equal and maximum of models.nlme.model.symbolic"
# a part of Python's message, and the cure
_CURES = (
    ("Python boolean", "if, and, or, max and min cannot decide on a value that is not known yet: write "
                       "s.where(condition, then, otherwise) or s.maximum, one condition inside the other"),
    ("Python float", f"functions of math and float() take numbers only: use {_FUNCTIONS}"),
    ("Python integer", "range() and int() take numbers only, not parameters or states"),
    ("with a sequence", "NumPy cannot choose between expressions: use s.where"),
    ("is not defined", "import it or define it above"),
    ("models.nlme.model.symbolic' has no attribute", f"there are {_FUNCTIONS}, and ordinary operators"),
    ("No module named", "install it, or correct the import"),
    ("positional argument", "rhs and output take (t, x, p), initial and dosing take (p)"),
    ("not subscriptable", "write x.central, not x['central']"),
)  # fmt: skip


def explained(error: Exception, what: str, *, file: str | None = None, function: Callable[..., Any] | None = None,
              expected: object = None, do: str | None = None) -> ConfigError:  # fmt: skip
    """An error that a person's code raised as one of ours.

    Args:
        error: what was raised.
        what: what could not be done.
        file: whose line is named; by default the innermost that belongs neither to a library nor to this package.
        function: whose first line is named if the error has no such line.
        expected: of the message.
        do: the cure, if :data:`_CURES` has none.
    """
    frames = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
    own = [(name, line) for name, line in frames if (name == file if file else _is_own(name))]
    if isinstance(error, SyntaxError) and error.filename:
        own = [(error.filename, error.lineno)]
    if not own and function is not None and hasattr(function, "__code__"):
        own = [(function.__code__.co_filename, function.__code__.co_firstlineno)]
    where = f"{own[-1][0]}, line {own[-1][1]}" if own else file
    got = str(error)
    source = linecache.getline(own[-1][0], own[-1][1] or 0).strip() if own else ""
    if source and not isinstance(error, ImageLongitudinalError):
        got = f"{got} in: {source}"
    cure = next((cure for part, cure in _CURES if part in str(error)), do)
    return ConfigError(what, where=where, expected=expected, got=got, do=cure)


def _is_own(name: str) -> bool:
    return _OURS not in name and not any(part in name for part in _LIBRARIES)
