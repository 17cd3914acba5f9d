"""Rate and remaining time of work, and durations and sizes as text, for displays of any kind."""

import time


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
