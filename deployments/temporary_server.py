"""The temporary server of one process: Prefect's API on a free port of this machine until that process has ended.

Prefect's own temporary server starts with the first request of a run, which waits for it. It imports the whole server
into the process that runs the flow, gets the terminal's Ctrl-C, and outlives a process that is killed. Here
``python -m image_longitudinal.deployments.temporary_server FD`` serves a listening socket until its standard input
ends: the kernel closes that with the starting process, however it ends.
"""

import http.client
import os
import socket
import subprocess
import sys
import threading

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.engine.prefect_setup import TEMPORARY_SERVER

START_SECONDS = 120.0  # a busy host, or the first start on a machine, which creates the database
# Read when Prefect is imported. There are no workers, schedules or automations, and nobody looks at the pages.
SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
}


class TemporaryServer:
    """A server that starts, and ends with this process. Requests to ``url`` wait until it answers."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port: int = listening.getsockname()[1]
            command = [sys.executable, "-m", "image_longitudinal.deployments.temporary_server"]
            self.process = subprocess.Popen(
                [*command, str(listening.fileno())], pass_fds=[listening.fileno()], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, start_new_session=True,  # not in the terminal's group: no Ctrl-C
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}/api"

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            ConfigError: it does not.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise ConfigError(
                "Prefect's temporary server did not start",
                where=self.url,
                got=repr(error),
                do="see the lines above, or set PREFECT_API_URL to a running server (make server)",
            ) from error
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise ConfigError("Prefect's temporary server is not well", where=self.url, got=f"status {status}")

    def stop(self) -> None:
        """End it before this process ends. Nothing is lost: SQLite commits as it goes."""
        self.process.kill()
        self.process.wait()


_started: TemporaryServer | None = None


def server_for_this_process() -> TemporaryServer | None:
    """Start the temporary server, unless Prefect's settings name a server; it is started once and stays.

    Must be called before flows are imported, and :meth:`TemporaryServer.wait` before one runs.
    """
    global _started
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url and settings.server.ephemeral.enabled:  # neither given nor started before, nor forbidden
        _started = TemporaryServer()
        os.environ["PREFECT_API_URL"] = os.environ[TEMPORARY_SERVER] = _started.url  # for processes of the run too
        refresh_global_settings_context()
    return _started


def main() -> None:
    """Serve until the process that started this one has ended."""
    threading.Thread(target=_end_with_starter, name="end with starter", daemon=True).start()
    os.environ |= SETTINGS
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.server.database.configurations import AioSqliteConfiguration

    from image_longitudinal.deployments.server import begin_as_writer

    AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign]
    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
