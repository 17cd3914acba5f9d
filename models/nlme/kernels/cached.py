"""Where compiled kernels are kept from one process to the next, and how those that are written by hand get there."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from image_longitudinal.core.digest import SHORT, digest_of

F = TypeVar("F", bound=Callable[..., Any])


def cached_kernel(function: F) -> F:
    """Compile a function, and keep what was compiled under the digest of every module of its package.

    numba itself looks at the function's own module alone, and would serve an old kernel after an edit of another one
    that it calls.
    """
    folder, before = Path(inspect.getfile(function)).parent, numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder() / digest_of_sources(folder))  # read while the decorator runs
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        numba.config.CACHE_DIR = before


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """The user's cache folder; a private temporary one if that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image-longitudinal" / "nlme"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="image-longitudinal-nlme-"))


@lru_cache(maxsize=8)
def digest_of_sources(folder: Path) -> str:
    """Short digest of the modules in a folder."""
    return digest_of([path.read_text() for path in sorted(folder.glob("*.py"))])[:SHORT]
