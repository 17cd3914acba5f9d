"""A folder behind any fsspec URL, as the registry uses one: read, write, list, copy; credentials from the environment.

An object store shows a file whole or not at all. On other remote file systems a reader may see half a file; the
registry checks every digest, so that such a version counts as damaged until it is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from image_longitudinal.core.errors import ModelError


class SharedFolder:
    """One folder; paths are relative to it, with forward slashes.

    Raises:
        ModelError: from every method, when the store cannot be reached or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._told("cannot open a model store", ""):
            self._fs, base = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            self._base = base.rstrip("/")

    def join(self, path: str) -> str:
        """The address of ``path``."""
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file, None where there is none."""
        with self._told("cannot read a model file", path):
            try:
                return bytes(self._fs.cat_file(self._key(path)))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, data: bytes) -> None:
        """Write a small file, replacing what was there."""
        with self._told("cannot write a model file", path):
            self._fs.makedirs(self._key(path).rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(self._key(path), data)

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file from here to a local path."""
        with self._told("cannot fetch a model file", path):
            try:
                self._fs.get_file(self._key(path), str(target))
            except FileNotFoundError as error:
                raise ModelError(
                    "a file of the model is missing", where=self.join(path), do="export or copy the version again"
                ) from error

    def put(self, source: Path, path: str) -> None:
        """Copy a local file to here."""
        with self._told("cannot store a model file", path):
            self._fs.makedirs(self._key(path).rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(source), self._key(path))

    def folders_with(self, name: str) -> list[str]:
        """Names of the folders directly under this one that hold a file ``name``, sorted, without hidden ones."""
        with self._told("cannot list a model store", ""):
            found = [str(path).split("/")[-2] for path in self._fs.glob(f"{self._base}/*/{name}")]
        return sorted(folder for folder in found if not folder.startswith("."))

    def _key(self, path: str) -> str:
        return f"{self._base}/{path}"

    @contextmanager
    def _told(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # drivers raise nearly anything when a store cannot be reached
            where = self.join(path) if path else self.url
            do = "check the address and the credentials in the environment, and that the protocol's driver is installed"
            raise ModelError(what, where=where, got=f"{type(error).__name__}: {error}", do=do) from error
