"""Durations and sizes as text for people."""


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
