"""Numbers with units, as texts for people."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """1234567 → 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # beyond, three digits round to the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 5 s, 2 h 10 min or 3 days."""
    if seconds == float("inf"):
        return "unknown"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 172_800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{round(seconds / 86_400):,} days"
