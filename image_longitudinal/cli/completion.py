"""Completion of option values in the shell; cheap, since a shell waits for it at every Tab."""

import json
import os
from pathlib import Path

import typer

from image_longitudinal.core.presets import preset_names

BUNDLED = ("pretrained", "pretrained-128")  # models.pretrained has them; importing it takes time


def complete_presets(incomplete: str) -> list[str]:
    """Names of presets."""
    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_keys(incomplete: str) -> list[tuple[str, str]]:
    """Keys of ``--set`` with their meaning; after ``=``, the values of a key that has a fixed choice."""
    from image_longitudinal.core.config_keys import config_keys

    name, equals, _ = incomplete.partition("=")
    keys = [key for key in config_keys() if key.name.startswith(name)]
    if equals:
        chosen = [f"{name}={choice}" for key in keys if key.name == name for choice in key.choices]
        return [(text, "") for text in chosen if text.startswith(incomplete)]
    return [(f"{key.name}=", key.meaning) for key in keys]


def complete_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Versions and aliases of the workspace's registry, from the names of its folders."""
    workspace = ctx.params.get("workspace") or os.environ.get("IMAGE_LONGITUDINAL_WORKSPACE") or "workspace"
    folder = Path(os.path.expanduser(workspace), "models")
    try:
        aliases = [*json.loads((folder / "aliases.json").read_bytes())]
    except (OSError, ValueError):
        aliases = []
    versions = sorted(path.parent.name for path in folder.glob("[!.]*/model.json"))
    return [name for name in (*aliases, *versions, *BUNDLED) if name.startswith(incomplete)]
