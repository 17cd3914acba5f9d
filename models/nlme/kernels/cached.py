"""The cache of compiled kernels on disk."""

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
MODEL = Path(__file__).parents[1] / "model"


def cached_kernel(function: F) -> F:
    """Compile a function; its cache folder is named by the digest of all sources that it may use.

    numba itself checks the function's own module only, and would serve an old kernel after an edit of a module whose
    functions or constants it uses: those of its package, and constants of ``models.nlme.model``.
    """
    folder, before = Path(inspect.getfile(function)).parent, numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder() / digest_of_sources(folder))  # read while the decorator runs
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        numba.config.CACHE_DIR = before


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """The user's cache folder; a private temporary folder if that is not writable."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image-longitudinal" / "nlme"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="image-longitudinal-nlme-"))


@lru_cache(maxsize=8)
def digest_of_sources(folder: Path) -> str:
    """Short digest of the modules in a folder and of those in ``models.nlme.model``."""
    paths = [*sorted(folder.glob("*.py")), *sorted(MODEL.glob("*.py"))]
    return digest_of([path.read_text() for path in paths])[:SHORT]
