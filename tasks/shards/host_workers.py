"""Processes of one host that draw images, one per device, each taking whole shards; a lost one costs its current shard.

The flow stays one process: its tasks hand their shard to a free worker and wait. A worker that dies (killed, out of
memory, a fault of the driver) is replaced, and its shard goes to the next free one. Nothing else has to be undone: a
shard is written under a temporary name until it is whole.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import Queue
from threading import Lock

import torch

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.tasks.shards.image_shards import ImageJob, MadeImages, make_image_shard
from image_longitudinal.tasks.shards.spec import DatasetSpec

LOSSES = 3  # workers that one shard may cost: more, and the shard is what kills them
logger = logging.getLogger(__name__)


def worker_devices(compute: ComputeConfig) -> list[str]:
    """The device of each drawing process that the configuration asks for; empty: the flow's own process draws."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if compute.device == "auto" else []
    devices = found or [compute.device]
    count = (
        (len(devices) if len(devices) > 1 else 0) if compute.render_processes == "auto" else compute.render_processes
    )
    return [devices[index % len(devices)] for index in range(count)] if count != 1 else []


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str


class HostWorkers:
    """A process per entry of ``devices``, started when first needed.

    Args:
        devices: names as ``compute.device`` takes them; one may be named more than once.
    """

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self.lost = 0  # workers that died at work
        self._workers: list[_Worker] = []
        self._free: Queue[_Worker | None] = Queue()  # None: there will be no more
        self._lock = Lock()
        self._closed = False
        atexit.register(self.close)

    def run(self, job: ImageJob) -> MadeImages:
        """Have a shard made by the next worker that is free; may be called from any number of threads.

        Raises:
            ModelError: it cost one worker after another, or the workers were closed meanwhile.
            ImageLongitudinalError: whatever the making of the shard raised.
        """
        self._start()
        for _ in range(LOSSES):
            worker = self._free.get()
            if worker is None:
                self._free.put(None)  # for the next one that waits
                break
            try:
                worker.pipe.send(replace(job, device=worker.device))
                wait([worker.pipe, worker.process.sentinel])
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                self._replace(worker, job)
                continue
            self._free.put(worker)
            if isinstance(answer, BaseException):
                raise answer
            return MadeImages(*answer)
        if self._closed:
            raise ModelError("the drawing processes were stopped", where=f"shard {job.index}")
        raise ModelError(
            f"{LOSSES} processes died drawing one shard",
            where=f"shard {job.index}",
            do="see the system's log (out of memory?), or lower generator.batch_size or compute.render_processes",
        )

    @property
    def pids(self) -> list[int]:
        """Of the workers that are alive."""
        with self._lock:
            return [worker.process.pid for worker in self._workers if worker.process.pid and worker.process.is_alive()]

    def close(self) -> None:
        """End the workers at once; what one is writing is dropped with its temporary name."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.terminate()
            for worker in self._workers:
                worker.process.join()
            self._workers.clear()
        self._free.put(None)
        atexit.unregister(self.close)

    def _start(self) -> None:
        with self._lock:
            if not self._workers and not self._closed:
                for device in self.devices:
                    self._add(device)

    def _add(self, device: str) -> None:
        # A fresh interpreter: a forked one would share the threads' locks and could not use CUDA.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // len(self.devices))
        process = context.Process(target=serve, args=(theirs, threads), name=f"draw on {device}", daemon=True)
        process.start()
        theirs.close()
        worker = _Worker(process, ours, device)
        self._workers.append(worker)
        self._free.put(worker)

    def _replace(self, worker: _Worker, job: ImageJob) -> None:
        worker.process.join()
        with self._lock:
            if self._closed:
                return
            self.lost += 1
            self._workers.remove(worker)
            self._add(worker.device)
        logger.warning(
            "the process drawing shard %d on %s was lost (exit code %s): the shard goes to another",
            job.index, worker.device, worker.process.exitcode,
        )  # fmt: skip


def serve(pipe: Connection, threads: int) -> None:
    """A worker's life: take a shard, make it, say what was made, until there are no more orders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the flow's, which ends its workers
    torch.set_num_threads(threads)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: object = make_image_shard(job)
        except Exception as error:
            answer = error
        try:
            pipe.send(answer)
        except (BrokenPipeError, OSError):  # nobody waits any more: the flow was stopped
            return


_pools: dict[tuple[str, ...], HostWorkers] = {}
_pools_lock = Lock()


def host_workers(spec: DatasetSpec) -> HostWorkers | None:
    """This process's workers for a data set; None where it draws itself."""
    devices = worker_devices(spec.config.compute)
    if not devices:
        return None
    with _pools_lock:
        if tuple(devices) not in _pools:
            _pools[tuple(devices)] = HostWorkers(devices)
        return _pools[tuple(devices)]


@contextmanager
def drawing_processes() -> Iterator[None]:
    """The workers that the body starts end with it."""
    try:
        yield
    finally:
        with _pools_lock:
            while _pools:
                _pools.popitem()[1].close()
