"""Taking turns on GPUs: a slot of the global concurrency limit ``gpu`` is held while a task computes on one.

The limit counts slots and picks no device: run one worker per GPU and let each see its own (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from core.errors import ConfigError
from models.tensors import default_device

GPU_LIMIT = "gpu"
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def gpu_slot(device: str) -> Iterator[None]:
    """Hold a slot while the body computes on ``device`` (a configuration's ``compute.device``); nothing on a CPU.

    Raises:
        ConfigError: the server has no such limit. Going on without one would let tasks crowd a GPU's memory.
    """
    if default_device(device).type != "cuda":
        yield
        return
    with get_client(sync_client=True) as client:
        if not PREFECT_API_URL.value():  # a server of this command's own: nobody ran make deploy on it
            ensure_limit(client, max(torch.cuda.device_count(), 1))
        elif not has_limit(client):
            raise ConfigError(
                f"the Prefect server has no global concurrency limit {GPU_LIMIT!r}",
                where=PREFECT_API_URL.value(),
                do="make it with: make deploy",
            )
    # A lease that cannot be renewed while the server is away must not end hours of training.
    with concurrency(GPU_LIMIT, strict=True, raise_on_lease_renewal_failure=False):
        yield


def takes_turns(function: Callable[P, R]) -> Callable[P, R]:
    """Run a task's function inside :func:`gpu_slot`; its ``config`` or ``spec`` says on which device it computes."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_slot(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        config = given["config"] if "config" in given else given["spec"].config
        with gpu_slot(config.compute.device):
            return function(*args, **kwargs)

    return with_slot


def has_limit(client: SyncPrefectClient) -> bool:
    """Whether the server knows the limit."""
    try:
        return client.read_global_concurrency_limit_by_name(GPU_LIMIT) is not None
    except ObjectNotFound:
        return False


def ensure_limit(client: SyncPrefectClient, slots: int) -> int:
    """Make the limit where there is none; returns the slots it has (an operator may have changed them)."""
    if not has_limit(client):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=slots))
    return client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit
