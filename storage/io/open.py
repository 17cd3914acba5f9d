"""Opening a root by its address."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root
from image_longitudinal.storage.io.schemes import LOCAL, scheme_of


def open_root(url: str | Path, storage_options: Mapping[str, Any] | None = None) -> Root:
    """A local path, ``file://`` or any other fsspec URL as a root; nothing is created or read yet.

    Args:
        url: the address.
        storage_options: of the driver of a store, such as ``{"anon": True}`` for a public bucket.

    Raises:
        StorageError: for an unknown protocol, one whose driver is not installed, or options for a local path.
    """
    text = str(url)
    scheme = scheme_of(text)
    if scheme and scheme not in LOCAL:
        return RemoteRoot(text, storage_options or {})
    if storage_options:
        raise StorageError("a local path has no storage options", where=text, got=", ".join(storage_options))
    return LocalRoot(text.partition("://")[2] if scheme else text)
