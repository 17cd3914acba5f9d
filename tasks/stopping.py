"""Ending work that runs in threads: a run that is cancelled ends after the batch in hand, not after the shard."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from core.errors import ImageLongitudinalError

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
        check_stopped()
        yield batch


def check_stopped() -> None:
    """Go on as long as the run does.

    Raises:
        ImageLongitudinalError: it was stopped.
    """
    if _stopped.is_set():
        raise ImageLongitudinalError("stopped with its run; finished shards stay")
