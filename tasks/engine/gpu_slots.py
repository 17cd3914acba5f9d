"""Taking turns on GPUs: slots of the global concurrency limit ``gpu`` are held while tasks compute on one.

The limit counts slots and picks no device: run one worker per GPU and let each see its own (CUDA_VISIBLE_DEVICES).

The tasks of one process share its slots, from the first that computes to the last. Each with a slot of its own would
leave the device idle between them: who finds all slots taken is told by the server to ask again in up to half a minute.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.training.processes import training_processes
from image_longitudinal.tasks.engine.cancellation import wait_unless_stopped

GPU_LIMIT = "gpu"
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def gpu_slots(compute: ComputeConfig) -> Iterator[None]:
    """Hold a slot for each GPU that the configuration lets tasks use while the body computes; none on a CPU.

    Raises:
        ConfigError: the server has no such limit. Going on without one would let tasks crowd a GPU's memory.
        ImageLongitudinalError: the run was stopped while it waited for its turn.
    """
    if default_device(compute.device).type != "cuda":
        yield
        return
    slots = _join(training_processes(compute))  # which counts devices: one process on each
    try:
        slots.wait()
        yield
    finally:
        _leave(slots)


def holds_gpu_slots(function: Callable[P, R]) -> Callable[P, R]:
    """Run a task's function inside :func:`gpu_slots`; its argument ``config`` or ``spec`` has ``compute``."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_slots(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        with gpu_slots(given["config" if "config" in given else "spec"].compute):
            return function(*args, **kwargs)

    return with_slots


class _HeldSlots:
    """Slots held by a thread of their own, for Prefect has the thread that took a lease give it back."""

    def __init__(self, count: int) -> None:
        self.count, self.users = count, 1
        self._held, self._unused = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        context = contextvars.copy_context()  # the run's, whose log and events tell of the slots
        self._thread = threading.Thread(target=lambda: context.run(self._hold), name="gpu slots", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the slots are held."""
        wait_unless_stopped(self._held)
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Give them back, at once where they are held and else as soon as they are."""
        self._unused.set()
        if self._held.is_set():
            self._thread.join()

    def _hold(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                slots = _slots_there(client, self.count)
            # A lease that cannot be renewed while the server is away must not end hours of training.
            with concurrency(GPU_LIMIT, occupy=slots, strict=True, raise_on_lease_renewal_failure=False):
                self._held.set()
                self._unused.wait()
        except BaseException as error:
            self._error = error
            self._held.set()


_in_use: dict[int, _HeldSlots] = {}
_in_use_lock = threading.Lock()


def _join(count: int) -> _HeldSlots:
    """The slots that this process holds or waits for; new ones for the first task."""
    with _in_use_lock:
        if count in _in_use:
            _in_use[count].users += 1
        else:
            _in_use[count] = _HeldSlots(count)
        return _in_use[count]


def _leave(slots: _HeldSlots) -> None:
    with _in_use_lock:
        slots.users -= 1
        if slots.users:
            return
        del _in_use[slots.count]
    slots.release()


def _slots_there(client: SyncPrefectClient, count: int) -> int:
    """``count``, or fewer where an operator has left fewer; made where this command's own server has none."""
    if not PREFECT_API_URL.value():  # nobody ran make deploy on it
        ensure_limit(client, max(torch.cuda.device_count(), 1))
    elif not has_limit(client):
        raise ConfigError(
            f"the Prefect server has no global concurrency limit {GPU_LIMIT!r}",
            where=PREFECT_API_URL.value(),
            do="make it with: make deploy",
        )
    return min(count, client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit)


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
