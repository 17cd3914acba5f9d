"""Reading JSON that somebody else may have written: bounded in size and depth, and only what JSON has."""

import json
import math
from typing import Any, Final

MAX_DOCUMENT: Final = 32 << 20  # bytes: a data set of 170,000 shards; read, the worst document takes 700 MB
MAX_DEPTH: Final = 64  # our documents have 8 levels


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is larger or deeper than allowed, no UTF-8, no JSON, or holds NaN or an infinite number.
    """
    if len(data) > MAX_DOCUMENT:
        raise ValueError(f"a JSON document of {len(data):,} bytes; at most {MAX_DOCUMENT:,} are read")
    text = data if isinstance(data, str) else data.decode()
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("a JSON document that is nested too deeply") from None
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [one for part in level if isinstance(part, dict | list) for one in _items(part)]
        if not level:
            return value
    raise ValueError(f"a JSON document that is nested more than {MAX_DEPTH} levels deep")


def _items(part: dict[str, Any] | list[Any]) -> Any:
    return part.values() if isinstance(part, dict) else part


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number that is too large: {text[:40]}")
    return value
