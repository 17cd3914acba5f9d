"""What the flows' parameters have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect.runtime import flow_run

from core.config import Config
from core.errors import ConfigError
from core.presets import load_config

ConfigChoice = Literal["demo", "scans", "small", "paper"]


def resolve(preset: str, config: Config | None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of a run: the one given whole, else the preset with the overrides over it."""
    if config is None:
        return load_config(preset, overrides=overrides)
    if overrides:
        raise ConfigError(
            "overrides and a whole configuration are given", got=overrides, do="write the values into the configuration"
        )
    return config


def images_in_words() -> str:
    """What the current flow run takes images from, for its name: the folder's name, or phantom images."""
    images = flow_run.parameters.get("images")
    return f"scans of {Path(images).name}" if images else "phantom images"
