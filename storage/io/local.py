"""A root in a folder of this machine."""

# ruff: noqa: D102 - the methods are documented in Root

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from image_longitudinal.core.files import replacing, write_atomically
from image_longitudinal.core.paths import below, open_plain
from image_longitudinal.storage.io.root import Root, local_blocks, storage_errors


class LocalRoot(Root):
    """A folder of this machine; files are replaced atomically (:func:`core.files.replacing`).

    Others may have filled it: nothing is written or removed through a link that leads out, and reading opens plain
    files only. Links to files are followed for reading, since caches of the Hugging Face hub consist of them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        super().__init__(str(self.folder))

    @property
    def filesystem(self) -> tuple[None, str]:
        return None, str(self.folder)

    def size(self, path: str) -> int | None:
        with storage_errors("cannot look up a file", self.join(path)):
            try:
                status = os.stat(self.folder / path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def blocks(self, path: str) -> Iterator[bytes]:
        return local_blocks(self.folder / path)

    def read_tail(self, path: str, size: int) -> bytes:
        with self._opened(path) as file:
            return os.pread(file, size, max(os.fstat(file).st_size - size, 0))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._opened(path) as file:
            return [os.pread(file, stop - start, start) for start, stop in ranges]

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """The descriptor of a plain file."""
        with storage_errors("cannot read a file", self.join(path)):
            file = open_plain(self.folder / path)
            try:
                yield file
            finally:
                os.close(file)

    def remove(self, path: str) -> None:
        with storage_errors("cannot remove a file", self.join(path)):
            below(self.folder, path).unlink(missing_ok=True)

    def files(self, folder: str = "") -> list[str]:
        return sorted(
            (Path(parent) / name).relative_to(self.folder).as_posix()
            for parent, _, names in os.walk(self.folder / folder)
            for name in names
        )

    def entries(self) -> list[str]:
        with storage_errors("cannot list a folder", self.url):
            try:
                found = list(os.scandir(self.folder))
            except FileNotFoundError:
                return []
            return sorted(entry.name for entry in found if not entry.is_dir() or any(os.scandir(entry.path)))

    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        with storage_errors("cannot write a file", self.join(path)):
            write_atomically(below(self.folder, path), pieces)

    def _clone(self, source: Root, source_path: str, path: str) -> bool:
        if not isinstance(source, LocalRoot) or (source.folder / source_path).is_symlink():
            return False
        target = below(self.folder, path)
        try:
            with replacing(target) as temporary:
                os.link(source.folder / source_path, temporary)
        except OSError:  # another file system, no links here, no source: a copy works or says why it cannot
            return False
        return True
