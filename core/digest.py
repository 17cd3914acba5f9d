"""Digests: the names by which configs, models and files are recognised across processes and machines."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SEAL = "content_sha256"  # the key of a document's digest of its own content
SETTLED = 2_000_000_000  # nanoseconds: file systems' clocks are coarse, so a file changed lately may change unseen
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


def file_sha256_once(path: str | Path) -> str:
    """:func:`file_sha256`, read once per process as long as size and times of the file stay: for large files."""
    status = os.stat(path)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED:
        return file_sha256(path)
    return _hashed(str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hashed(path: str, *identity: int) -> str:
    return file_sha256(path)


def sealed_json(content: Mapping[str, Any]) -> str:
    """A JSON document with a digest of its own content, so that damage is found without a record elsewhere."""
    sealed = {**content, SEAL: digest_of(content)}
    return json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"


def unsealed_json(text: bytes) -> dict[str, Any]:
    """The content of :func:`sealed_json`'s text; ValueError if it is not exactly as written."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"an object is expected, not {type(content).__name__}")
    content.pop(SEAL, None)
    if sealed_json(content).encode() != text:
        raise ValueError("the content does not match its digest")
    return content


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
