"""Prefect for one command: settings, the console's log, and a temporary server where no server is configured."""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import typer

from image_longitudinal.cli.escaping import escape_record
from image_longitudinal.tasks.engine.prefect_setup import SHORTENED, configure_prefect

STARTED_BY = "IMAGE_LONGITUDINAL_STARTED_BY"  # environment variable of a temporary server: process id of its command
APPLICATION = "prefect.server.api.server:create_app"


@contextlib.contextmanager
def starting_prefect() -> Iterator[None]:
    """Start Prefect while the body imports a flow, which takes as long as the start of the temporary server.

    Raises:
        ModuleNotFoundError: the pipeline is not installed.
    """
    import psutil  # noqa: F401 - without the pipeline, fail before anything is printed

    configure_prefect()
    typer.echo("starting (the first start on a machine takes longer)")
    stop_orphaned_servers()
    from prefect.logging.configuration import setup_logging

    setup_logging()
    for handler in logging.getLogger().handlers:  # the console; the Prefect UI keeps the whole record
        handler.addFilter(belongs_on_console)
        handler.addFilter(escape_record)
    with temporary_server():
        yield


def belongs_on_console(record: logging.LogRecord) -> bool:
    """Keep from the console what ``main`` prints in one line anyway, and Prefect's notes about its own server."""
    message = record.getMessage()
    about_prefect = record.name == "EventsWorker" or "temporary server on" in message
    return not (hasattr(record, SHORTENED) or about_prefect or "Finished in state Failed" in message)


def stop_orphaned_servers() -> None:
    """Stop temporary servers that commands ended by ``kill -9`` left (230 MB each); mark the next as this process's."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or another user's
            starter = process.environ().get(STARTED_BY) if APPLICATION in process.cmdline() else None
            if starter and int(starter) != process.ppid():
                process.terminate()
    os.environ[STARTED_BY] = str(os.getpid())


@contextlib.contextmanager
def temporary_server() -> Iterator[None]:
    """Start Prefect's temporary server while the body runs; it answers when the body has ended.

    Does nothing where a server is configured. Prefect itself would start it at the first flow, with everything waiting.
    """
    from prefect.settings import get_current_settings

    if get_current_settings().api.url or not get_current_settings().server.ephemeral.enabled:
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(server.start)
        yield
        started.result()

    def kill() -> None:
        if server.server_process:
            server.server_process.kill()

    # Exit handlers run last to first: after Prefect's workers have sent their events, before Prefect's own handler,
    # which asks the server to end and waits up to 5 s. Nothing is lost: SQLite commits as it goes.
    atexit.register(kill)
