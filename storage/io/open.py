"""Opening a root by its address."""

from pathlib import Path

from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root
from image_longitudinal.storage.io.schemes import LOCAL, scheme_of


def open_root(url: str | Path) -> Root:
    """A local path, ``file://`` or any other fsspec URL as a root; nothing is created or read yet.

    Raises:
        StorageError: for an unknown protocol, or one whose driver is not installed.
    """
    text = str(url)
    scheme = scheme_of(text)
    if not scheme:
        return LocalRoot(text)
    return LocalRoot(text.partition("://")[2]) if scheme in LOCAL else RemoteRoot(text)
