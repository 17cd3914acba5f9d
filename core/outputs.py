"""One rule for what commands write: what exists stays unless it is to be overwritten; what replaces it appears whole.

A result that is made again is made beside the old one and takes its place when it is complete.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.files import move_into_place, temporary_folder, temporary_name

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_KEEP = "name another, or replace it with --overwrite (in Python: overwrite=True)"


def expanded(place: str) -> str:
    """A path or URL with ``~`` and environment variables replaced, as a shell does where it sees them.

    Raises:
        ConfigError: a variable is not set, and no file has the name as it stands.
    """
    text = os.path.expandvars(os.path.expanduser(place))
    if (unknown := _VARIABLE.search(text)) and not os.path.lexists(place):
        raise ConfigError("an environment variable of a path is not set", where=place, got=unknown[0], do="set it")
    return text


def can_be_written(place: Path) -> bool:
    """Whether a file or folder can be created at ``place``, or below it: its nearest folder that exists says so."""
    folder = place.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def check_new_file(path: Path, overwrite: bool = False) -> None:
    """Refuse to write over a file before any work is done for it.

    Raises:
        StorageError: ``path`` exists and is not to be overwritten, is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise StorageError("this is a folder", where=path, expected="the name of a file")
    if not path.parent.is_dir():
        raise StorageError("cannot write a file", where=path, got="no such folder", do="create the folder first")
    if path.exists() and not overwrite:
        raise StorageError("the file exists already", where=path, do=_KEEP)


def check_new_folder(folder: Path, names: Collection[str], overwrite: bool = False) -> None:
    """Refuse to write a result over another one, or over files that no result of this kind has.

    Args:
        folder: where the result will be.
        names: files and folders that such a result may hold; a folder with others is never replaced.
        overwrite: replace an earlier result.

    Raises:
        StorageError: the folder holds something that must stay.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError("this is a file", where=folder, expected="the name of a folder")
    if Path.cwd().is_relative_to(folder.resolve()):
        do = "name a folder inside it"
        raise StorageError("a result cannot take the place of the working folder", where=folder, do=do)
    held = sorted(entry.name for entry in folder.iterdir())
    if foreign := [name for name in held if name not in names]:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        do = "name another folder, or move these files away"
        raise StorageError("the folder holds other files", where=folder, got=", ".join(foreign[:3]) + more, do=do)
    if held and not overwrite:
        raise StorageError("the folder holds an earlier result", where=folder, do=_KEEP)


@contextlib.contextmanager
def new_folder(folder: Path, names: Collection[str], overwrite: bool = False) -> Iterator[Path]:
    """A folder to write a result into, which becomes ``folder`` when the body ends; arguments as above.

    If the body fails, ``folder`` is as it was, and no folder is left that this call created.

    Raises:
        StorageError: see :func:`check_new_folder`, or the folder cannot be written.
    """
    check_new_folder(folder, names, overwrite)
    try:
        with removing_empty_parents(folder), temporary_folder(folder) as temporary:
            yield temporary
            check_new_folder(folder, names, overwrite)  # another command may have written meanwhile
            _swap(temporary, folder)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise StorageError("cannot write a result", where=folder, got=error, do="name another folder") from error


@contextlib.contextmanager
def removing_empty_parents(path: Path) -> Iterator[None]:
    """If the body fails, remove the folders above ``path`` that it created and left empty."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):  # absent, or not empty
                parent.rmdir()
        raise


def _swap(new: Path, folder: Path) -> None:
    """Give a complete folder its name; an earlier result makes room for it and is then removed."""
    old = folder.with_name(temporary_name(folder.name))
    if not folder.exists():
        move_into_place(new, folder)
        return
    os.rename(folder, old)
    try:
        move_into_place(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old)
