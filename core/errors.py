"""Errors that a person can act on: every one says what, where, what was expected, what came and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class ImageLongitudinalError(Exception):
    """Base of every error this project raises on purpose.

    The command line prints its message as one line and exits non-zero; anything else that escapes is a bug.
    """

    def __init__(
        self, what: str, *, where: object = None, expected: object = None, got: object = None, do: str | None = None
    ) -> None:
        parts = [what if where is None else f"{what} ({where})"]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        message = "; ".join(parts)
        if do:
            message = f"{message.rstrip(' .')}. {do[0].upper()}{do[1:]}"
        super().__init__(" ".join(message.split()))


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
