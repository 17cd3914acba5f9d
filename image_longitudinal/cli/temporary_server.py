"""The server that Prefect starts for a command when none is configured: it must not outlive a killed command."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil

STARTED_BY = "IMAGE_LONGITUDINAL_STARTED_BY"  # in the environment: process id of the command
APPLICATION = "prefect.server.api.server:create_app"


def stop_orphaned_servers() -> None:
    """Stop the temporary servers whose command is gone, and mark the one to come as this process's.

    Prefect stops its server when the command ends, but not after ``kill -9``: each one left would hold 230 MB for good.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone by now, or another user's
            starter = process.environ().get(STARTED_BY) if APPLICATION in process.cmdline() else None
            if starter and int(starter) != process.ppid():
                process.terminate()
    os.environ[STARTED_BY] = str(os.getpid())


@contextlib.contextmanager
def temporary_server() -> Iterator[None]:
    """Have Prefect's temporary server start while the body runs, and answer when it ends; none where one is named.

    Prefect itself would start it at the first flow, and everything would wait.
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

    # Exit handlers run last to first: after Prefect's workers have sent what they hold, before its own handler, which
    # asks the server to end and waits up to 5 s for it. Nothing of it is worth saving: SQLite commits as it goes.
    atexit.register(kill)
