"""Errors that a person can act on: every one says what, where, what was expected, what came and what to do."""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from image_longitudinal.core.secrets import redacted

# Packages of an optional part of the installation, by the extra that brings them.
_EXTRA_OF = {
    "bm3d": "bm3d", "dask": "analysis", "duckdb": "analysis", "h5py": "judge",
    "huggingface_hub": "hub", "nibabel": "nifti", "pandas": "analysis", "polars": "analysis",
    "opacus": "dp", "pydicom": "dicom",
    "s3fs": "s3", "xarray": "analysis",
}  # fmt: skip
_PIPELINE = frozenset({
    "PIL", "accelerate", "arviz", "diffusers", "fastapi", "jinja2", "llvmlite", "matplotlib", "numba", "prefect",
    "psutil", "pymc", "pytensor", "safetensors", "scipy", "skimage", "sklearn", "sqlalchemy", "tensorboard", "torch",
    "transformers",
})  # fmt: skip


class ImageLongitudinalError(Exception):
    """Base of every error this project raises on purpose.

    The command line prints its message as one line and exits with ``exit_status``; anything else that escapes is a bug.
    """

    exit_status = 1

    def __init__(
        self, what: str, *, where: object = None, expected: object = None, got: object = None, do: str | None = None
    ) -> None:
        message = what if where is None else f"{what} ({where})"
        for name, value in (("expected", expected), ("got", got)):
            if value is not None:
                message += f"; {name} {value}"
        if do:
            message = f"{message.rstrip(' .')}. {do[0].upper()}{do[1:]}"
        super().__init__(redacted(" ".join(message.split())))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question that names what ``name`` may have been meant to be; None if nothing is close."""
    by_lower = {one.lower(): one for one in known}
    close = [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=2, cutoff=0.7)]
    if not close and (part := [one for one in by_lower.values() if name and one.endswith(f".{name}")]):
        close = part[:2]
    return f"did you mean {' or '.join(close)}?" if close else None


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Let an error of ours that leaves the body begin with ``place``: of a thousand shards, which one."""
    try:
        yield
    except ImageLongitudinalError as error:
        error.args = (f"{place}: {error}",)
        raise


def writing_advice(error: Exception) -> str:
    """What to do about a file or folder that cannot be written."""
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return "give this account the right to write there: docs/howto/operations.md, several accounts"
    if number == errno.EROFS:
        return "choose a place on a file system that is not read-only"
    return "free space or choose another place"


class Problems:
    """Errors that are collected and reported together, so that a person corrects all of them at once."""

    def __init__(self) -> None:
        self.found: list[ImageLongitudinalError] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """End the body at an error of ours, and keep the error."""
        try:
            yield
        except ImageLongitudinalError as error:
            self.found.append(error)

    def require_none(self) -> None:
        """Raise the error that was found, or one that lists all of them."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise SeveralProblemsError(self.found)


class SeveralProblemsError(ImageLongitudinalError):
    """Several errors, one a line."""

    def __init__(self, problems: Sequence[ImageLongitudinalError]) -> None:
        lines = (f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
        Exception.__init__(self, "\n".join([f"{len(problems)} problems", *lines]))


class ConfigError(ImageLongitudinalError):
    """A configuration value is unknown or impossible."""


class IngestError(ImageLongitudinalError):
    """Source images cannot be used."""


class ModelError(ImageLongitudinalError):
    """A model is missing, does not fit the request, or its training failed."""


class SimulationError(ImageLongitudinalError):
    """A subject's outcomes could not be simulated."""


class StorageError(ImageLongitudinalError):
    """A data set on disk or in an object store is missing, damaged, foreign or cannot be written."""


class RefusedByGateError(ModelError):
    """A model or a data set is not good enough: see :mod:`core.gates`; or a model is worse than production."""

    exit_status = 4


class DamagedError(StorageError):
    """Something that was kept is not as it was written: it may be made anew where that is possible."""


class MissingExtraError(ImageLongitudinalError):
    """An optional package is not installed."""


@contextmanager
def naming_missing_extra() -> Iterator[None]:
    """Turn the failed import of an optional package into an error that says what to install.

    Raises:
        MissingExtraError: the body imported a package of an extra that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = "pipeline" if package in _PIPELINE else _EXTRA_OF.get(package)
        if extra is None:
            raise
        raise MissingExtraError(
            f"this needs the {extra}: {package} is not installed", do=f"run: pip install 'image-longitudinal[{extra}]'"
        ) from error
