"""GPU slots: a flow holds slots of the global concurrency limit ``gpu`` while it renders or trains on GPUs.

The limit counts slots and does not choose a device: start one worker per GPU and let each see only its own
(CUDA_VISIBLE_DEVICES). Hold slots for a whole section of work, such as all shards of a run: a process that finds all
slots taken asks again only after up to half a minute, and a device would be idle that long between shards.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency import _leases as leases
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.training.processes import training_processes
from image_longitudinal.tasks.engine.prefect_setup import lasting_server

GPU_LIMIT = "gpu"
LEASE_SECONDS = 60.0  # the shortest that Prefect has: the next run waits for that of a killed one
RENEWALS = 60  # attempts, at most ten seconds apart, until a holder takes its lease for lost: ten minutes
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def gpu_slots(compute: ComputeConfig) -> Iterator[None]:
    """Hold one slot for each GPU that the configuration allows; none on a CPU. Do not nest.

    Waits until enough slots are free; an exception in this thread (a cancelled run) ends the wait.

    Raises:
        ConfigError: the server has no such limit. Without one, runs could overfill a GPU's memory.
    """
    if default_device(compute.device).type != "cuda":
        yield
        return
    with get_client(sync_client=True) as client:
        slots = _available_slots(client, training_processes(compute))  # one process per GPU
    with held_slots(slots):
        yield


@contextmanager
def held_slots(slots: int) -> Iterator[None]:
    """Hold slots of the limit; they stay this process's while the server is away for up to ten minutes."""
    # Prefect gives up after three attempts within three seconds; the slot would be another's though this one works.
    leases._RENEWAL_MAX_ATTEMPTS = RENEWALS
    # A failed lease renewal, while the server is away, must not end hours of training.
    with concurrency(
        GPU_LIMIT, occupy=slots, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):
        yield


def holds_gpu_slots(function: Callable[P, R]) -> Callable[P, R]:
    """Run a task's function inside :func:`gpu_slots` of its argument ``compute``."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_slots(*args: P.args, **kwargs: P.kwargs) -> R:
        with gpu_slots(signature.bind(*args, **kwargs).arguments["compute"]):
            return function(*args, **kwargs)

    return with_slots


def _available_slots(client: SyncPrefectClient, count: int) -> int:
    """``count``, or fewer if an operator lowered the limit; a command's own temporary server gets the limit here."""
    if (server := lasting_server()) is None:  # nobody ran make deploy on a temporary server
        return min(count, ensure_limit(client, max(torch.cuda.device_count(), 1)))
    try:
        return min(count, client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit)
    except ObjectNotFound as error:
        what, do = f"the Prefect server has no global concurrency limit {GPU_LIMIT!r}", "create it with: make deploy"
        raise ConfigError(what, where=server, do=do) from error


def ensure_limit(client: SyncPrefectClient, slots: int) -> int:
    """Create the limit if the server has none; return its number of slots, which an operator may have changed."""
    try:
        return client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=slots))
        return slots
