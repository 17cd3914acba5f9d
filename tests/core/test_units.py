"""Durations and sizes as text."""

import pytest

from image_longitudinal.core.units import duration, human_bytes


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
