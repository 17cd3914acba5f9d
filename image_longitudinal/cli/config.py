"""Commands ``image-longitudinal config ...``: keys of the configuration, a configuration as a whole, its schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from image_longitudinal.cli.commands import add_command
from image_longitudinal.cli.console import show
from image_longitudinal.cli.options import File, Overrides, Preset
from image_longitudinal.core.config_keys import config_keys, flattened, yaml_value
from image_longitudinal.core.errors import ConfigError, did_you_mean

app = typer.Typer(help="Show the configuration: its keys, its values, its schema.", no_args_is_help=True)


def list_keys_command(
    prefix: Annotated[str, typer.Argument(help="Only keys that begin with this, e.g. dataset.")] = "",
) -> None:
    """List every key with its type, default and meaning."""
    keys = config_keys(prefix)
    if not keys:
        known = [key.name for key in config_keys()]
        close = did_you_mean(prefix, [*known, *{name.partition(".")[0] for name in known}])
        raise ConfigError("no key begins like this", got=prefix, do=close or "list all with: config list")
    lines = (f"{key.name} = {key.default}\n    {key.type}. {key.meaning}" for key in keys)
    show("\n".join(lines), keys=keys)


def show_config_command(preset: Preset = "demo", config: File = None, overrides: Overrides = None) -> None:
    """Print the effective configuration as YAML, with the source of each value; `--config` reads it back."""
    from image_longitudinal.core.presets import config_layers, load_config

    effective = load_config(preset, config, overrides or ()).model_dump(mode="json")
    sources = {
        key: layer.source for layer in config_layers(preset, config, overrides or ()) for key in flattened(layer.values)
    }
    sources = {name: sources.get(name, "default") for name in flattened(effective)}
    show("\n".join(_yaml_lines(effective, sources)), config=effective, sources=sources)


def _yaml_lines(values: Mapping[str, Any], sources: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, sources, f"{prefix}{name}.")
        else:
            yield f"{indent}{name}: {yaml_value(value)}  # {' '.join(sources[prefix + name].split())}"


def schema_command() -> None:
    """Print the JSON schema of configuration files, for editors."""
    from image_longitudinal.core.config import Config

    schema = Config.model_json_schema()
    show(json.dumps(schema, indent=1, ensure_ascii=False), **schema)


for _name, _function, _examples in (
    ("list", list_keys_command, ("list", "list dataset.")),
    ("show", show_config_command, ("show --preset paper", "show --set dataset.n_subjects=2000 --json")),
    ("schema", schema_command, ("schema", "schema --json")),
):
    add_command(
        app, _function, *(f"image-longitudinal config {words}" for words in _examples), group="config", name=_name
    )
