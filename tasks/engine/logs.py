"""Errors in a run's log: an error that people can act on is one line with its cause, without a traceback."""

import logging

from image_longitudinal.core.errors import ImageLongitudinalError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")  # those that log exceptions
SHORTENED = "image_longitudinal_shortened"  # attribute of a record whose traceback was removed


def log_errors_in_one_line() -> None:
    """Install :func:`shorten_error` in this process; a second call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(shorten_error)


def shorten_error(record: logging.LogRecord) -> bool:
    """Remove the traceback from a record of an error of this project; drop the engine's record that repeats it."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ImageLongitudinalError):
        record.exc_info = record.exc_text = None
        setattr(record, SHORTENED, True)
        return not record.getMessage().startswith("Engine execution exited")
    return True
