"""The terminal's edge: whatever a command prints or logs, names of others among it, cannot steer the terminal."""

import contextlib
import functools
import io
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

from image_longitudinal.core.escapes import for_terminal


class _EscapingStream(io.TextIOBase):
    """A text stream that escapes control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind it."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream behind it."""
        return self._stream.errors

    def write(self, text: str) -> int:
        """Write it, escaped."""
        if not isinstance(text, str):
            raise TypeError(f"text is expected, not {type(text).__name__}")
        self._stream.write(for_terminal(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind it."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream behind it is a terminal."""
        return self._stream.isatty()


def escaping(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose printed text is escaped; its help, which Typer colours, is not."""

    @functools.wraps(command)
    def escaped(*arguments: Any, **options: Any) -> Any:
        with contextlib.redirect_stdout(_EscapingStream(sys.stdout)):
            return command(*arguments, **options)

    return escaped


def escape_record(record: logging.LogRecord) -> bool:
    """A logging filter that escapes the message, and keeps every record."""
    message = record.getMessage()
    if (escaped := for_terminal(message)) != message:
        record.msg, record.args = escaped, ()
    return True
