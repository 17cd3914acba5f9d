"""The cache of compiled kernels on disk, whose files are synced and checked."""

import contextlib
import hashlib
import inspect
import io
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numba
from numba.core import caching

from image_longitudinal.core.digest import SHORT, digest_of
from image_longitudinal.core.files import replacing

F = TypeVar("F", bound=Callable[..., Any])
MODEL = Path(__file__).parents[1] / "model"


class CheckedCacheFile(caching.IndexDataCacheFile):
    """numba's index and machine code of a function, each followed by its SHA-256; a damaged one counts as absent.

    numba neither syncs nor checks them. An empty one, as a power cut leaves it, ends every later run in an EOFError,
    and damaged machine code is run as it is.
    """

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        with replacing(Path(filepath)) as temporary, open(temporary, "wb") as file:
            yield file

    def _dump(self, obj: object) -> bytes:
        content: bytes = super()._dump(obj)
        return content + hashlib.sha256(content).digest()  # pickle ignores what follows

    def _load_index(self) -> dict[Any, str]:
        with contextlib.suppress(FileNotFoundError):
            file = io.BytesIO(Path(self._index_path).read_bytes())
            try:
                version = pickle.load(file)  # noqa: S301 - our own cache, as is all that numba loads
            except Exception:  # pickle raises nearly anything
                version = None
            if version == numba.__version__ and _is_intact(file.read(), self._index_path):
                return cast(dict[Any, str], super()._load_index())
        return {}

    def _load_data(self, name: str) -> Any:
        if not _is_intact(Path(self._data_path(name)).read_bytes(), name):
            raise FileNotFoundError(name)  # numba compiles the function again
        return super()._load_data(name)


caching.IndexDataCacheFile = CheckedCacheFile


def _is_intact(content: bytes, name: str) -> bool:
    intact = hashlib.sha256(content[:-32]).digest() == content[-32:]
    if not intact:
        logging.getLogger(__name__).warning("the cached kernel %s is damaged: compiled again", name)
    return intact


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
    return digest_of([path.read_text(encoding="utf-8") for path in paths])[:SHORT]
