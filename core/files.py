"""Local files and folders that appear whole under their name or not at all, also after a power cut."""

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
import stat
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


def portable_name(name: str) -> str:
    """The name of a local file as text: its bytes as UTF-8, whatever locale this process has read it in."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def local_name(name: str) -> str:
    """The name to open a local file by whose bytes are ``name`` in UTF-8; the inverse of :func:`portable_name`."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``path`` when the body ends, and is removed when the body fails.

    File and folder are synced to disk: after a power cut ``path`` is the whole old or the whole new file. The parent
    folder is created if needed. For writers that need a path (safetensors, Pillow, memory maps).

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.parent / temporary_name(path.name)
    make_folder(path.parent)
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write ``content`` (text as UTF-8) as the whole of ``path``; see :func:`replacing`.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    whole = content.encode() if isinstance(content, str) else content
    pieces = (whole,) if isinstance(whole, bytes | memoryview) else whole
    with replacing(path) as temporary, open(temporary, "xb", buffering=BLOCK) as file:
        for piece in pieces:
            file.write(piece)
            _start_writeback(file.fileno(), len(piece))


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, durably: a synced file is lost with the name of its folder."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def move_into_place(temporary: Path, target: Path) -> None:
    """Rename a complete file or folder to ``target``, replacing a file or an empty folder, durably.

    Everything in a folder is synced first, whoever wrote it, and readable by whom the umask lets read.
    """
    if temporary.is_dir():
        for parent, _, names in os.walk(temporary, topdown=False):
            for name in names:
                _open_to_others(Path(parent, name))
                sync(Path(parent, name))
            sync(Path(parent))
    else:
        _open_to_others(temporary)
        sync(temporary)
    os.replace(temporary, target)
    sync(target.parent)  # else a power cut may lose the new name


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` to fill and then :func:`move_into_place`; removed at the end if it was not moved.

    It is locked while in use. Unlocked ones of the same target, which killed processes left, are removed first.

    Raises:
        OSError: the folder cannot be created.
    """
    make_folder(target.parent)
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(stale):
            shutil.rmtree(stale, ignore_errors=True)
    temporary = target.parent / temporary_name(target.name)
    temporary.mkdir()
    try:
        with _locked(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process; OSError when another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _start_writeback(descriptor: int, size: int) -> None:
    """Let the system write large pieces to disk while the next ones are produced, not all at the end."""
    if size >= BLOCK and hasattr(os, "posix_fadvise"):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.posix_fadvise(descriptor, end - size, size, os.POSIX_FADV_DONTNEED)


def _open_to_others(path: Path) -> None:
    """Give a file of mode 0600 the mode that the umask asks for: writers with temporary files of their own ignore it.

    safetensors is one: without this, the models of a shared registry could be read by one account alone.
    """
    if stat.S_IMODE(path.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR:
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The umask of this process; asking the system for it would change it for a moment, also in other threads."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
