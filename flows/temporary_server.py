"""The server that Prefect starts for a command when none is configured: it must not outlive a killed command."""

from __future__ import annotations

import contextlib
import os

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
