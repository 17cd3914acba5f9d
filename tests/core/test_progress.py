"""Rate, time left and how often they are shown; durations and sizes as text."""

import pytest

from image_longitudinal.core import progress
from image_longitudinal.core.progress import Pace, Throttle, duration, human_bytes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_work_of_before_does_not_count_towards_the_rate(clock: list[float]) -> None:
    pace = Pace(total=50, done=20)
    assert pace.seconds_left(20) == float("inf")
    clock[0] += 4
    assert (pace.rate(30), pace.seconds_left(30)) == (2.5, 8)


def test_a_throttle_is_ready_once_per_interval_or_when_forced(clock: list[float]) -> None:
    throttle, eager = Throttle(10), Throttle(10, ready_at_once=True)
    assert (throttle.ready(), eager.ready(), eager.ready()) == (False, True, False)
    clock[0] += 10
    assert (throttle.ready(), throttle.ready(), throttle.ready(always=True)) == (True, False, True)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_600, "1 MB"),
        (2.5e9, "2.5 GB"), (3.2e12, "3.2 TB"), (4.56e14, "456 TB"),
    ],
)  # fmt: skip
def test_bytes_have_three_digits(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3599.6, "1 h 0 min"),
        (7800, "2 h 10 min"), (172_799.4, "47 h 59 min"), (8.64e8, "10000 d 0 h"), (float("inf"), "unknown"),
    ],
)  # fmt: skip
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
