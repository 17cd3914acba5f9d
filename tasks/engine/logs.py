"""What a run's log says of an error that people can act on: one line with its cause, and no traceback."""

from __future__ import annotations

import logging

from image_longitudinal.core.errors import ImageLongitudinalError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")  # those that tell of exceptions
OF_OURS = "of_ours"  # a record's mark


def tell_errors_in_one_line() -> None:
    """From now on, in this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if in_one_line not in logger.filters:
            logger.addFilter(in_one_line)


def in_one_line(record: logging.LogRecord) -> bool:
    """Take the traceback off a record about an error of ours; leave out the one that says only that there was one."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ImageLongitudinalError):
        record.exc_info = record.exc_text = None
        setattr(record, OF_OURS, True)
        return not record.getMessage().startswith("Engine execution exited")
    return True
