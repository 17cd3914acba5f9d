"""Parameters that several flows share."""

from pathlib import Path
from typing import Literal

from prefect.runtime import flow_run

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.tasks.preflight import check_names

ConfigChoice = Literal["demo", "scans", "scans-128", "small", "paper"]


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


def images_in_words() -> str:
    """The image source of the current flow run, for the run's name: the folder's name, or phantom images."""
    images = flow_run.parameters.get("images")
    return f"scans of {Path(images).name}" if images else "phantom images"
