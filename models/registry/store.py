"""What the registry needs of a folder outside the workspace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class ModelStore(Protocol):
    """An opened folder, local or remote; paths are relative to it, with forward slashes. Writes are atomic.

    The caller opens it (:func:`storage.io.open.open_root`): the models do not know how files are stored.
    """

    url: str

    def join(self, path: str) -> str:
        """The address of ``path``, for messages."""

    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file."""

    def files(self) -> list[str]:
        """Paths of all files, sorted."""

    def read_bytes(self, path: str) -> bytes:
        """The whole of ``path``."""

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of a few MiB."""

    def write_bytes(self, path: str, data: bytes) -> object:
        """Write ``data`` as the whole of ``path``."""

    def put_file(self, source: Path, path: str) -> object:
        """Copy a local file to ``path``."""
