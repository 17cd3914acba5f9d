"""Log messages of a command: those for people on stderr, all of them in a file on request.

Prefect keeps its own configuration off a root logger that has a handler already: its raw lines are not printed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from image_longitudinal.cli.display import Display
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.escapes import for_terminal

PACKAGE = "image_longitudinal"
SHORTENED, SHOWN = f"{PACKAGE}_shortened", f"{PACKAGE}_shown"  # attributes that tasks.engine sets


class _Escaped(logging.Formatter):
    """Formats a message, and shows the control characters in it as text: log files are read in terminals."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a message."""
        return for_terminal(super().format(record))


class LinesForPeople(logging.Handler):
    """Prints messages without time and logger, above the live display; not those that the display or ``main`` shows."""

    def __init__(self, display: Display | None, verbose: bool) -> None:
        super().__init__(logging.DEBUG if verbose else logging.INFO if display else logging.ERROR)
        self.display, self.verbose, self._process = display, verbose, os.getpid()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else None))

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        if not self.verbose and not wanted(record):
            return
        text = self.format(record)
        if not self.verbose and record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        try:
            if self.display and os.getpid() == self._process:
                self.display.line(text)
            else:
                print(for_terminal(text), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr is closed: the run goes on
            self.handleError(record)


def wanted(record: logging.LogRecord) -> bool:
    """Whether a message is news for a person, not Prefect's bookkeeping or what is printed elsewhere."""
    message = record.getMessage()
    if hasattr(record, SHORTENED) or hasattr(record, SHOWN) or "Finished in state Failed" in message:
        return False
    engine = getattr(sys.modules.get("prefect"), "__file__", None)
    if engine is None or not record.pathname.startswith(os.path.dirname(engine) + os.sep):
        return True
    return record.levelno >= logging.WARNING and record.name != "EventsWorker"


@contextlib.contextmanager
def logging_to(display: Display | None, *, verbose: bool, file: Path | None) -> Iterator[None]:
    """Handle the log messages of this process during the body.

    Raises:
        StorageError: the log file cannot be written.
    """
    handlers: list[logging.Handler] = [LinesForPeople(display, verbose)]
    if file is not None:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise StorageError("cannot write the log file", where=file, got=error, do="name another file") from error
        handlers[-1].setFormatter(_Escaped("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, own = logging.getLogger(), logging.getLogger(PACKAGE)
    before = own.level
    own.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        own.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
