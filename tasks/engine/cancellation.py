"""Ending work that runs in threads: a run that is cancelled ends after the batch in hand, not after the shard."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from image_longitudinal.core.errors import ImageLongitudinalError

T = TypeVar("T")

_stopped = threading.Event()


@contextmanager
def stopping_tasks() -> Iterator[None]:
    """Where the body is left by an exception (a cancelled run among them), tell the tasks of this process to stop."""
    _stopped.clear()
    try:
        yield
    except BaseException:
        _stopped.set()
        raise


def until_stopped(batches: Iterable[T]) -> Iterator[T]:
    """The batches, as long as their run goes on.

    Raises:
        ImageLongitudinalError: it was stopped.
    """
    for batch in batches:
        if _stopped.is_set():
            raise _stop()
        yield batch


def wait_unless_stopped(event: threading.Event) -> None:
    """Wait for an event, as long as the run goes on; that an earlier one of this process was stopped is no matter.

    Raises:
        ImageLongitudinalError: it was stopped.
    """
    before = _stopped.is_set()
    while not event.wait(timeout=1):
        if _stopped.is_set() and not before:
            raise _stop()


def _stop() -> ImageLongitudinalError:
    return ImageLongitudinalError("stopped with its run; finished shards stay")
