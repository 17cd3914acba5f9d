"""One training over several processes of this host, one per GPU; what each of them has to know about the others.

Every process draws the whole batch of a step and takes its :func:`share`: how many processes there are changes no draw,
only the order of the sums. accelerate averages the gradients (NCCL on GPUs, gloo on CPUs).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing
from torch.multiprocessing.spawn import spawn

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ImageLongitudinalError, ModelError
from image_longitudinal.models.training.tensors import default_device

PATIENCE = timedelta(days=1)  # a lost process is seen by the one that started it, not by the others' waiting
Report = Callable[[Any], None]


def training_processes(compute: ComputeConfig) -> int:
    """How many processes a training takes: one per GPU of the host, at most ``compute.render_processes``; 1 on a CPU.

    On a CPU a second process would gain nothing, and change the last bits of the weights.
    """
    if compute.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    found = torch.cuda.device_count()
    return found if compute.render_processes == "auto" else min(found, compute.render_processes)


def run_in_processes(function: Callable[..., None], arguments: tuple[Any, ...], n: int, report: Report) -> None:
    """Run ``function(*arguments, report)`` in ``n`` new processes that see each other, or here if ``n`` is 1.

    Args:
        function: of a module's top level; what it makes it leaves on disk, by the first process alone (:func:`rank`).
        arguments: picklable.
        n: processes.
        report: told here what the first process reports.

    Raises:
        ImageLongitudinalError: what one of the processes raised; the others are ended.
        ModelError: one of them was lost, or failed in another way.
    """
    if n == 1:
        function(*arguments, report)
        return
    queue: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{Path(folder) / 'meeting'}"
        context = spawn(_enter, (n, place, queue, function, arguments), nprocs=n, join=False)
        try:
            over = False
            while not over:
                over, lost = _wait(context)
                _relay(queue, report)  # raises what a process raised: that says more than how it ended
                if lost is not None:
                    raise ModelError("a training process was lost", got=str(lost).strip().splitlines()[-1]) from lost
        finally:
            for process in context.processes:
                process.kill()
                process.join()


def rank() -> int:
    """This process's place among those that train together; the first, 0, is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share() -> slice:
    """The rows of a batch that this process computes; all of them where training is one process."""
    return slice(rank(), None, distributed.get_world_size() if distributed.is_initialized() else 1)


def check_divisible(name: str, batch_size: int) -> None:
    """Processes take equal shares, or a mean of their means would not be the batch's.

    Raises:
        ModelError: they cannot.
    """
    n = distributed.get_world_size() if distributed.is_initialized() else 1
    if batch_size % n:
        raise ModelError(
            f"{name}.batch_size cannot be shared equally", expected=f"a multiple of {n} processes", got=batch_size,
            do=f"change {name}.batch_size, or set compute.render_processes",
        )  # fmt: skip


def mean_over_processes(value: Tensor) -> float:
    """The mean of a scalar over the processes that train together; all of them have to ask."""
    if distributed.is_initialized():
        value = value.detach().double()  # a copy: what comes is left as it is
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return float(value.detach())


@contextmanager
def first_process_first() -> Iterator[None]:
    """The first process goes through the body, then the others, who find what it left on disk."""
    if distributed.is_initialized() and rank() > 0:
        distributed.barrier()
    yield
    if distributed.is_initialized() and rank() == 0:
        distributed.barrier()


def _enter(
    index: int, n: int, place: str, queue: SimpleQueue[Any], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """A process's life; what it raises goes home before it ends."""
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # nothing listens beyond this host
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cuda = default_device().type == "cuda"
    if cuda:
        torch.cuda.set_device(index)
    try:
        distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=place, rank=index, world_size=n, timeout=PATIENCE
        )
        function(*arguments, queue.put if index == 0 else None)
        distributed.destroy_process_group()
    except ImageLongitudinalError as error:
        queue.put(error)
        raise SystemExit(1) from None
    except Exception as error:
        queue.put(ModelError("a training process failed", where=f"process {index} of {n}", got=repr(error)))
        raise


def _wait(context: Any) -> tuple[bool, Exception | None]:
    """After a moment: whether all have ended, and how one ended that did not end well."""
    try:
        return bool(context.join(timeout=0.2)), None
    except Exception as error:
        return True, error


def _relay(queue: SimpleQueue[Any], report: Report) -> None:
    while not queue.empty():
        told = queue.get()
        if isinstance(told, BaseException):
            raise told
        report(told)
