"""One training over several processes of this host, one per GPU.

Every process generates the random numbers of the whole batch of a step and computes its own rows
(:func:`process_rows`): the number of processes changes no random number, only the order of the sums. accelerate
averages the gradients (NCCL on GPUs, gloo on CPUs).
"""

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
from image_longitudinal.models.imaging.device import default_device

TIMEOUT = timedelta(days=1)  # a lost process is noticed by the parent, not by the timeout of the others
Reporter = Callable[[Any], None]


def training_processes(compute: ComputeConfig) -> int:
    """Number of processes of a training: one per GPU of the host, at most ``compute.render_processes``; 1 on a CPU.

    On a CPU a second process would gain nothing, and change the last bits of the weights.
    """
    if compute.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return 1
    found = torch.cuda.device_count()
    return found if compute.render_processes == "auto" else min(found, compute.render_processes)


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Compute with ``n`` threads in the body, whatever the machine has and OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_in_processes(
    function: Callable[..., None], arguments: tuple[Any, ...], n: int, threads: int, report: Reporter
) -> None:
    """Run ``function(*arguments, report)`` in ``n`` new processes of one group, or in this process if ``n`` is 1.

    Each computes with ``threads`` threads.

    The function belongs to a module's top level, its arguments are picklable, and the main process alone (:func:`rank`
    0) writes its results to disk. ``report`` receives in this process what the main process reports.

    Raises:
        ImageLongitudinalError: raised by one of the processes; the others are killed.
        ModelError: a process was lost, or failed in another way.
    """
    if n == 1:
        with cpu_threads(threads):
            function(*arguments, report)
        return
    queue: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{Path(folder) / 'rendezvous'}"
        context = spawn(_run, (n, threads, rendezvous, queue, function, arguments), nprocs=n, join=False)
        try:
            finished, lost = False, None
            while not finished:
                try:
                    finished = bool(context.join(timeout=0.2))
                except Exception as error:  # of a process that failed
                    finished, lost = True, error
                _relay(queue, report)  # raises the error of a process: it says more than the exit status
                if lost is not None:
                    raise ModelError("a training process was lost", got=str(lost).strip().splitlines()[-1]) from lost
        finally:
            for process in context.processes:
                process.kill()
                process.join()


def rank() -> int:
    """Index of this process among those that train together; the main process, 0, is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def process_rows() -> slice:
    """The rows of a batch that this process computes; all of them if the training is one process."""
    return slice(rank(), None, distributed.get_world_size() if distributed.is_initialized() else 1)


def check_divisible(name: str, batch_size: int) -> None:
    """Check that processes can take equal parts of a batch: else the mean of their means is not that of the batch.

    Raises:
        ModelError: ``batch_size`` is not a multiple of the number of processes.
    """
    n = distributed.get_world_size() if distributed.is_initialized() else 1
    if batch_size % n:
        raise ModelError(
            f"{name}.batch_size cannot be divided equally", expected=f"a multiple of {n} processes", got=batch_size,
            do=f"change {name}.batch_size, or set compute.render_processes",
        )  # fmt: skip


def mean_over_processes(value: Tensor) -> float:
    """Mean of a scalar over the processes that train together; all of them must call this."""
    if distributed.is_initialized():
        value = value.detach().double()  # a copy: the argument stays unchanged
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return float(value.detach())


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the body, then the others, which find its files on disk."""
    if distributed.is_initialized() and rank() > 0:
        distributed.barrier()
    yield
    if distributed.is_initialized() and rank() == 0:
        distributed.barrier()


def _run(
    index: int,
    n: int,
    threads: int,
    rendezvous: str,
    queue: SimpleQueue[Any],
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Main function of a process; sends its error to the parent before it exits."""
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # nothing listens beyond this host
    torch.set_num_threads(threads)
    cuda = default_device().type == "cuda"
    if cuda:
        torch.cuda.set_device(index)
    try:
        distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=rendezvous, rank=index, world_size=n, timeout=TIMEOUT
        )
        function(*arguments, queue.put if index == 0 else None)
        distributed.destroy_process_group()
    except ImageLongitudinalError as error:
        queue.put(error)
        raise SystemExit(1) from None
    except Exception as error:
        queue.put(ModelError("a training process failed", where=f"process {index} of {n}", got=repr(error)))
        raise


def _relay(queue: SimpleQueue[Any], report: Reporter) -> None:
    while not queue.empty():
        message = queue.get()
        if isinstance(message, BaseException):
            raise message
        report(message)
