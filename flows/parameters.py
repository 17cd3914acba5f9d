"""What the flows' parameters have in common."""

from __future__ import annotations

from typing import Literal

from core.config import Config
from core.presets import load_config

ConfigChoice = Literal["demo", "small", "paper"]


def resolve(preset: str, config: Config | None) -> Config:
    """The configuration of a run: the one given whole, else the preset's."""
    return load_config(preset) if config is None else config
