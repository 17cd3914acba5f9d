"""Prefect in a process that runs flows: its settings, and errors in a run's log that are one line with their cause."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from image_longitudinal.core.errors import ImageLongitudinalError
from image_longitudinal.core.outputs import can_be_written

if TYPE_CHECKING:  # takes a second, and only runs need it
    from prefect.flows import Flow

P = ParamSpec("P")
R = TypeVar("R")

DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # without heartbeats, a server takes the run for dead
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # once connected: bridges about 8 minutes of a busy or restarting server
}
TEMPORARY_SERVER = "IMAGE_LONGITUDINAL_TEMPORARY_SERVER"  # environment: address of the server of this process alone
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")  # those that log exceptions
SHORTENED = "image_longitudinal_shortened"  # attribute of a record whose traceback was removed


def configure_prefect() -> None:
    """Set the defaults as environment variables, before Prefect is imported; variables that are set already stay.

    A home folder that cannot be written is replaced by a temporary one.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ and not can_be_written(Path.home() / ".prefect"):
        os.environ["PREFECT_HOME"] = home = tempfile.mkdtemp(prefix="image-longitudinal-prefect-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def lasting_server() -> str | None:
    """The address of the server that the settings name; None if this run has a temporary one or none yet."""
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    return address if address != os.environ.get(TEMPORARY_SERVER) else None


def run_or_call(flow: Flow[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Run a flow on the server that the settings name; without one, call its function, which starts no server.

    For flows whose functions need no run: they submit no tasks, and log by :func:`tasks.engine.progress.run_logger`.
    """
    return flow(*arguments, **named) if lasting_server() else flow.fn(*arguments, **named)


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
