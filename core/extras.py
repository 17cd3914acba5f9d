"""Optional parts of the installation: the error that names the extra which brings a missing package."""

from collections.abc import Iterator
from contextlib import contextmanager

from image_longitudinal.core.errors import ImageLongitudinalError

_EXTRA_OF = {"bm3d": "bm3d", "huggingface_hub": "hub", "prefect_dask": "dask", "distributed": "dask", "s3fs": "s3"}
_PIPELINE = frozenset({
    "PIL", "accelerate", "arviz", "diffusers", "fastapi", "jinja2", "llvmlite", "matplotlib", "numba", "prefect",
    "psutil", "pymc", "pytensor", "safetensors", "scipy", "skimage", "sqlalchemy", "tensorboard", "torch",
    "transformers",
})  # fmt: skip


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
