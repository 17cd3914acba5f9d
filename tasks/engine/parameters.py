"""Parameters that several flows share."""

from pathlib import Path
from typing import Literal

from prefect.runtime import flow_run

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.core.secrets import hidden
from image_longitudinal.models.imaging.backends import import_backend
from image_longitudinal.models.nlme.library import load_models
from image_longitudinal.tasks.preflight import check_names

ConfigChoice = Literal["demo", "scans", "scans-128", "small", "paper", "trial", "observational", "sites"]


def resolve(preset: str, config: Config | None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of a run: ``config`` if given, else the preset with the overrides.

    Raises:
        ConfigError: it is not valid, or names an unknown backend or longitudinal model. Checked before any work.
    """
    if config is None:
        config = load_config(preset, overrides=overrides)
    elif overrides:
        do = "write the values into the configuration"
        raise ConfigError("overrides and a whole configuration are given", got=overrides, do=do)
    check_names(config)
    return config


def load_trusted(names: tuple[str, ...]) -> None:
    """Run or import the code that the user names for a data set made by others: ``FILE.py`` or ``package.module:name``.

    Raises:
        ConfigError: it cannot be run or imported.
    """
    for name in names:
        if name.endswith(".py"):
            load_models(name)
        else:
            import_backend(name)


def images_in_words() -> str:
    """The image source of the current flow run, for the run's name: the folder's name, or phantom images."""
    images = flow_run.parameters.get("images")
    return f"scans of {Path(hidden(images)).name}" if images else "phantom images"
