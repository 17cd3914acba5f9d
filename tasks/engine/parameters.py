"""What the flows' parameters have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect.runtime import flow_run

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.imaging.backends import find_backend
from image_longitudinal.models.nlme.library import get_model

ConfigChoice = Literal["demo", "scans", "scans-128", "small", "paper"]


def resolve(preset: str, config: Config | None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of a run: the one given whole, else the preset with the overrides over it.

    Raises:
        ConfigError: it is not valid, or names a backend or a longitudinal model that there is not: known now, not
            after an hour of training.
    """
    if config is None:
        config = load_config(preset, overrides=overrides)
    elif overrides:
        raise ConfigError(
            "overrides and a whole configuration are given", got=overrides, do="write the values into the configuration"
        )
    find_backend(config.generator.backend)
    count, entries = get_model(config.outcomes.model).n_random_effects, config.dataset.eta_dims
    if entries != "auto" and len(entries) != count:
        raise ConfigError(
            "dataset.eta_dims do not fit", expected=f"{count} entries ({config.outcomes.model})", got=list(entries)
        )
    return config


def images_in_words() -> str:
    """What the current flow run takes images from, for its name: the folder's name, or phantom images."""
    images = flow_run.parameters.get("images")
    return f"scans of {Path(images).name}" if images else "phantom images"
