"""Local files that appear whole under their name or not at all, also after a power cut."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

BLOCK = 1 << 20  # bytes per read or write: large enough to hide the call, small beside a shard
_TEMPORARY = re.compile(r"\.[^/]+\.[0-9a-f]{8}\.tmp")


def temporary_name(name: str) -> str:
    """A new temporary name for a file that will be called ``name``."""
    return f".{name}.{secrets.token_hex(4)}.tmp"


def is_temporary(path: str) -> bool:
    """Whether a path is one of our temporary files, which a killed process may have left."""
    return _TEMPORARY.fullmatch(PurePosixPath(path).name) is not None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``path`` when the body ends, and is removed when the body fails.

    File and folder are synced to disk: after a power cut ``path`` is the whole old or the whole new file. The parent
    folder is created if needed. For writers that need a path (safetensors, Pillow, memory maps).

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.parent / temporary_name(path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write ``content`` as the whole of ``path``; see :func:`replacing`.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    pieces = (content,) if isinstance(content, bytes | memoryview) else content
    with replacing(path) as temporary, open(temporary, "xb", buffering=BLOCK) as file:
        for piece in pieces:
            file.write(piece)
            _start_writeback(file.fileno(), len(piece))


def _start_writeback(descriptor: int, size: int) -> None:
    """Let the system write large pieces to disk while the next ones are made, not all at the end."""
    if size >= BLOCK and hasattr(os, "posix_fadvise"):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.posix_fadvise(descriptor, end - size, size, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # else a power cut may forget the new name
    finally:
        os.close(descriptor)
