"""Processes of this host that render images, one per device; a lost one costs only the shard it was rendering.

Tasks of the flow give a free process one whole shard. Each process is a separate executor: if it dies (killed, out of
memory, driver fault), it is replaced, and the next free process renders the shard. A shard has a temporary name until
it is complete, so there is nothing to undo.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from queue import Queue

import torch

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.tasks.engine.cancellation import stop_with
from image_longitudinal.tasks.shards.image_shards import ShardPartResult, render_shard
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec

MAX_LOSSES = 3  # processes lost on one shard before the run fails: then the shard is the cause
_SPAWN = multiprocessing.get_context("spawn")  # a forked process would share locks of threads and could not use CUDA
logger = logging.getLogger(__name__)


def worker_devices(compute: ComputeConfig) -> list[str]:
    """The device of each rendering process that the configuration asks for; empty: the flow's own process renders."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if compute.device == "auto" else []
    devices = found or [compute.device]
    count = len(devices) if compute.render_processes == "auto" else compute.render_processes
    return [devices[index % len(devices)] for index in range(count)] if count > 1 else []


class HostWorkers:
    """One process per entry of ``devices`` (names as in ``compute.device``, also repeated), started when needed."""

    def __init__(self, devices: list[str]) -> None:
        self.lost = 0  # processes that died while rendering
        self._threads = max(1, (os.cpu_count() or 1) // len(devices))
        self._stop = _SPAWN.Event()
        self._idle: Queue[tuple[str, ProcessPoolExecutor]] = Queue()
        for device in devices:
            self._idle.put((device, self._executor()))
        self._count = len(devices)

    def render(self, spec: ImageSpec, output: str, execution: Execution) -> ShardPartResult:
        """Render a shard in the next free process. Any number of threads may call this.

        Raises:
            ModelError: several processes died on this shard, or the workers were closed.
            ImageLongitudinalError: as raised by :func:`tasks.shards.image_shards.render_shard`.
        """
        where = f"shard {spec.shard.index}"
        for _ in range(MAX_LOSSES):
            device, executor = self._idle.get()
            try:
                if self._stop.is_set():
                    raise ModelError("the rendering processes were stopped", where=where)
                compute = execution.compute.model_copy(update={"device": device})
                there = execution.model_copy(update={"compute": compute})
                return executor.submit(render_shard, spec, output, there).result()
            except BrokenProcessPool:
                self.lost += 1
                logger.warning("lost a process rendering %s on %s: trying again", where, device)
                executor = self._executor()
            finally:
                self._idle.put((device, executor))
        raise ModelError(
            f"{MAX_LOSSES} processes died rendering one shard",
            where=where,
            do="see the system log (out of memory?), or lower generator.batch_size or compute.render_processes",
        )

    def close(self) -> None:
        """End all processes, each after its current batch; unfinished files keep their temporary names."""
        self._stop.set()
        for _ in range(self._count):
            device, executor = self._idle.get()
            executor.shutdown()
        self._idle.put((device, executor))  # for threads that still wait: they find that all is stopped

    def _executor(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, _SPAWN, _start_process, (self._threads, self._stop))


def _start_process(threads: int, stop: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the flow, which stops its processes
    torch.set_num_threads(threads)
    stop_with(stop)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, so that a killed flow leaves no process on a GPU."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


_current: HostWorkers | None = None


@contextmanager
def host_workers(compute: ComputeConfig) -> Iterator[None]:
    """Let :func:`render_here` use the rendering processes that the configuration asks for, within the body."""
    global _current
    devices = worker_devices(compute)
    if not devices:
        yield
        return
    _current = workers = HostWorkers(devices)
    try:
        yield
    finally:
        _current = None
        workers.close()


def render_here(spec: ImageSpec, output: str, execution: Execution) -> ShardPartResult:
    """Render a shard on this host: in a rendering process if there are some, else in this process."""
    return (_current.render if _current else render_shard)(spec, output, execution)
