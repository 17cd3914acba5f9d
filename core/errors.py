"""Errors that a person can act on: every one says what, where, what was expected, what came and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from image_longitudinal.core.secrets import redacted

# Packages of an optional part of the installation, by the extra that brings them.
_EXTRA_OF = {
    "bm3d": "bm3d", "distributed": "dask", "h5py": "judge", "huggingface_hub": "hub", "prefect_dask": "dask",
    "s3fs": "s3",
}  # fmt: skip
_PIPELINE = frozenset({
    "PIL", "accelerate", "arviz", "diffusers", "fastapi", "jinja2", "llvmlite", "matplotlib", "numba", "prefect",
    "psutil", "pymc", "pytensor", "safetensors", "scipy", "skimage", "sqlalchemy", "tensorboard", "torch",
    "transformers",
})  # fmt: skip


class ImageLongitudinalError(Exception):
    """Base of every error this project raises on purpose.

    The command line prints its message as one line and exits non-zero; anything else that escapes is a bug.
    """

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


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Let an error of ours that leaves the body begin with ``place``: of a thousand shards, which one."""
    try:
        yield
    except ImageLongitudinalError as error:
        error.args = (f"{place}: {error}",)
        raise


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
