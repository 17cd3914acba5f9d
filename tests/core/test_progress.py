"""Rate, time left and how often they are shown."""

import pytest

from image_longitudinal.core import progress
from image_longitudinal.core.progress import Pace, Throttle


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_work_of_before_does_not_count_towards_the_rate(clock: list[float]) -> None:
    pace = Pace(total=50, done=20)
    assert pace.seconds_left(20) == float("inf")
    clock[0] += 4
    assert pace.rate(30) == 2.5
    assert pace.seconds_left(30) == 8


def test_a_throttle_is_ready_once_per_interval_or_when_forced(clock: list[float]) -> None:
    throttle, eager = Throttle(10), Throttle(10, ready_at_once=True)
    assert (throttle.ready(), eager.ready(), eager.ready()) == (False, True, False)
    clock[0] += 10
    assert (throttle.ready(), throttle.ready(), throttle.ready(always=True)) == (True, False, True)
