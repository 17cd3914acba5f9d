"""Prefect for one command: its settings, and a temporary server where a run needs one and none is configured."""

import contextlib
from collections.abc import Iterator

from image_longitudinal.cli.console import note
from image_longitudinal.cli.server_address import START, reach
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.engine.prefect_setup import configure_prefect, lasting_server


@contextlib.contextmanager
def starting_prefect(server: bool = True) -> Iterator[None]:
    """Start Prefect while the body imports a flow, which takes as long as the start of the temporary server.

    Args:
        server: whether the flow needs one; else :func:`tasks.engine.prefect_setup.run_or_call` calls it.

    Raises:
        ModuleNotFoundError: the pipeline is not installed.
        ConfigError: the server that the settings name does not answer, or the temporary one does not start.
    """
    configure_prefect()
    if not server:
        yield
        return
    import prefect  # noqa: F401 - without the pipeline, fail before anything is printed

    from image_longitudinal.deployments.temporary_server import server_for_this_process

    if (url := lasting_server()) and (reached := reach(url)).problem:
        raise ConfigError("no Prefect server answers", where=reached.address, got=reached.problem, do=START)
    note("starting (the first start on a machine takes longer)")
    started = server_for_this_process()
    yield
    if started:
        started.wait()
