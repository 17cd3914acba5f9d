"""Digests: the names by which configs, models and files are recognised across processes and machines."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SHORT = 12  # hex digits shown to people and used in folder names: 48 bits, enough to tell one user's runs apart


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, shortest exact floats.

    Args:
        value: anything JSON can hold, or pydantic models, tuples and paths inside it.

    Raises:
        TypeError: for a value without one stable text (sets, arrays, tensors, objects).
        ValueError: for a number that is infinite or undefined.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(*values: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``values``: stable across processes and machines."""
    return hashlib.sha256(canonical_json(list(values)).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of a local file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        named = {str(key): _plain(item) for key, item in value.items()}
        if len(named) < len(value):
            raise TypeError(f"keys of a dictionary have the same text: {list(value)}")
        return named
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
