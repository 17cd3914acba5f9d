"""Opening a root by its address."""

from pathlib import Path

from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root


def open_root(url: str | Path) -> Root:
    """A local path, ``file://`` or any other fsspec URL as a root; nothing is created or read yet.

    Raises:
        StorageError: for an unknown protocol, or one whose driver is not installed.
    """
    text = str(url)
    protocol, separator, path = text.partition("://")
    if not separator:
        return LocalRoot(text)
    return LocalRoot(path) if protocol in ("file", "local") else RemoteRoot(text)
