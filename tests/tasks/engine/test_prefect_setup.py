"""Errors of this project are one line in a run's log; any other error is a bug and keeps its traceback."""

import io
import logging
from collections.abc import Iterator

import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.tasks.engine.prefect_setup import LOGGERS, log_errors_in_one_line

log_errors_in_one_line()


@pytest.fixture(params=LOGGERS)
def logger(request: pytest.FixtureRequest) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    log_errors_in_one_line()
    text, logger = io.StringIO(), logging.getLogger(request.param)
    before, logger.handlers = logger.handlers, [logging.StreamHandler(text)]  # instead of those that send to a server
    yield logger, text
    logger.handlers = before


def log(logger: logging.Logger, error: Exception, message: str = "Encountered exception: %r") -> None:
    try:
        raise error
    except Exception:
        logger.exception(message, error) if "%" in message else logger.exception(message)


def test_an_error_of_ours_is_one_line_with_its_cause(logger: tuple[logging.Logger, io.StringIO]) -> None:
    log(logger[0], StorageError("shard 3: the disk is full"))
    log(logger[0], StorageError("shard 3: the disk is full"), "Engine execution exited with unexpected exception")
    assert logger[1].getvalue() == "Encountered exception: StorageError('shard 3: the disk is full')\n"


def test_a_bug_keeps_its_traceback(logger: tuple[logging.Logger, io.StringIO]) -> None:
    log(logger[0], ZeroDivisionError("a bug"))
    assert "Traceback" in logger[1].getvalue()
