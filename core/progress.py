"""Rate and remaining time of work, what listens to it, and durations and sizes as text, for displays of any kind."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Step(NamedTuple):
    """Where one piece of work is: ``done`` of ``total`` units; ``total`` is 0 while its length is not known."""

    what: str
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0  # units per second
    elapsed: float = 0.0  # seconds
    seconds_left: float = float("inf")
    extra: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return 0 < self.total <= self.done

    def __str__(self) -> str:
        if not self.total:
            return self.what
        time = f"done in {duration(self.elapsed)}" if self.finished else f"{duration(self.seconds_left)} left"
        return (
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {self.total - self.done:,} to go, "
            f"{self.rate:.3g} {self.unit}/s, {time}{self.extra and f'; {self.extra}'}"
        )


Listener = Callable[[Step], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` at every step that any thread of this process reports during the body."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(step: Step) -> None:
    """Tell who listens where a piece of work is."""
    for listener in tuple(_listeners):
        listener(step)


class Counter:
    """Reports one piece of work with a known length; cheap enough for every batch.

    Args:
        what: a few words, such as ``generate images``.
        total: units of work.
        unit: what is counted, in the plural.
        done: units finished before; they do not count towards the rate.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.unit = what, unit
        self.pace = Pace(total, done)
        self.update(done)

    def update(self, done: int, extra: str = "") -> Step:
        """Report that ``done`` of ``total`` units are finished."""
        pace = self.pace
        step = Step(
            self.what, done, pace.total, self.unit, pace.rate(done), pace.elapsed, pace.seconds_left(done), extra
        )
        report(step)
        return step


class Throttle:
    """Limits how often something is shown: at most every ``seconds``, the first time at once if ``ready_at_once``."""

    def __init__(self, seconds: float, ready_at_once: bool = False) -> None:
        self.seconds = seconds
        self._last = float("-inf") if ready_at_once else time.monotonic()

    def ready(self, always: bool = False) -> bool:
        """Whether to show something now: enough time has passed since the last display, or ``always``."""
        now = time.monotonic()
        if not always and now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Pace:
    """Rate and remaining time of work that starts now; ``done`` of ``total`` units were finished earlier."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.first = total, done
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, above 0."""
        return max(time.monotonic() - self._began, 1e-6)

    def rate(self, done: int) -> float:
        """Units per second, with ``done`` of ``total`` finished."""
        return (done - self.first) / self.elapsed

    def seconds_left(self, done: int) -> float:
        """Seconds until all is done at this rate; infinite before the first unit."""
        rate = self.rate(done)
        return (self.total - done) / rate if rate > 0 else float("inf")


def duration(seconds: float) -> str:
    """Seconds in at most two units: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds == float("inf"):
        return "unknown"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 172_800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def human_bytes(count: float) -> str:
    """Bytes with three digits and a decimal unit: 1234567 is 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # beyond, three digits round to the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
