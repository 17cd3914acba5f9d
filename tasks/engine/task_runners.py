"""Task runners for shards: threads of this process, or processes of a Dask cluster. The choice changes no byte."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ConfigError


@contextmanager
def shard_runner(compute: ComputeConfig, width: int) -> Iterator[TaskRunner[Any]]:
    """Start the Prefect task runner that the configuration asks for, for ``width`` shards at a time.

    Raises:
        ConfigError: Dask is not installed, or no scheduler answers at the address.
    """
    if compute.executor == "threads":
        with ThreadPoolTaskRunner(max_workers=2 * width) as threads:
            yield threads
        return
    try:
        from prefect.server.api.server import SubprocessASGIServer
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise ConfigError(
            "compute.executor=dask needs Dask", got=error, do="install it with: pip install 'image-longitudinal[dask]'"
        ) from error
    local = {"n_workers": width, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    cluster = {"address": compute.dask_address} if compute.dask_address else {"cluster_kwargs": local}
    # The cluster's processes must report to the server of this process, even if it is a command's temporary one.
    address = PREFECT_API_URL.value() or SubprocessASGIServer().api_url
    with temporary_settings({PREFECT_API_URL: str(address)}), DaskTaskRunner(**cluster) as runner:
        try:
            _ = runner.client  # connects to the scheduler
        except (OSError, TimeoutError) as error:
            raise ConfigError("no Dask scheduler answers", where=compute.dask_address, got=error) from error
        yield runner
