"""Errors that users can act on appear in a run's log as one line with the cause, without a traceback."""

from __future__ import annotations

import logging

from image_longitudinal.core.errors import ImageLongitudinalError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")  # those that log exceptions
OF_OURS = "of_ours"  # attribute of records about an error of this project


def log_errors_in_one_line() -> None:
    """Install the filter :func:`in_one_line` in this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if in_one_line not in logger.filters:
            logger.addFilter(in_one_line)


def in_one_line(record: logging.LogRecord) -> bool:
    """Remove the traceback from a record about an error of this project; drop Prefect's repetition of the error."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ImageLongitudinalError):
        record.exc_info = record.exc_text = None
        setattr(record, OF_OURS, True)
        return not record.getMessage().startswith("Engine execution exited")
    return True
