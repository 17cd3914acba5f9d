"""Paths below a folder that others may have filled: no link leads out of it, and only plain files are opened."""

import os
import stat
from pathlib import Path, PurePosixPath

from image_longitudinal.core.errors import StorageError


def below(folder: Path, path: str) -> Path:
    """Where the file ``path`` (relative, with forward slashes) may be written or removed: below ``folder``.

    Raises:
        StorageError: the path is absolute, contains ``..`` or a null, or a folder on the way is a link that leads out.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise StorageError("not a path below the folder", where=folder, expected="a relative path", got=repr(path))
    target = folder.joinpath(*parts)
    folder_below(folder, target.parent)
    return target


def folder_below(folder: Path, inner: Path) -> Path:
    """``inner``, a folder below ``folder`` that may not exist yet.

    Raises:
        StorageError: it, or a folder on the way, is a link that leads out. ``folder`` itself may be a link.
    """
    outer, found = os.path.realpath(folder), os.path.realpath(inner)
    if os.path.commonpath((outer, found)) != outer:
        raise StorageError(
            "a link leads out of the folder that is written to", where=inner, expected=f"a folder below {folder}",
            got=found, do="remove the link; to use another disk, make the whole folder the link",
        )  # fmt: skip
    return inner


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a plain file; a device, FIFO or socket is refused, and never waited for.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"not a plain file: {path}")
    return descriptor
