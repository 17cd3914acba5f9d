"""Stop work in other threads and processes: a cancelled run ends after the current batch, not after the shard."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import TypeVar

from image_longitudinal.core.errors import ImageLongitudinalError

T = TypeVar("T")

_stopped: threading.Event | Event = threading.Event()


@contextmanager
def stopping_tasks() -> Iterator[None]:
    """If the body raises (a cancelled run does), stop the tasks of this process."""
    _stopped.clear()
    try:
        yield
    except BaseException:
        _stopped.set()
        raise


def stop_with(event: Event) -> None:
    """Stop the tasks of this process when another process sets ``event``."""
    global _stopped
    _stopped = event


def until_stopped(batches: Iterable[T]) -> Iterator[T]:
    """Yield the batches while the run is not stopped.

    Raises:
        ImageLongitudinalError: the run was stopped.
    """
    for batch in batches:
        if _stopped.is_set():
            raise ImageLongitudinalError("stopped with its run; finished shards stay")
        yield batch
