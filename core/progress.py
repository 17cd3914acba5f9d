"""How fast work goes and how long it will still take, for progress displays of any kind."""

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
