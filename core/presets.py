"""Build a validated :class:`core.config.Config` from a preset, a file and overrides."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from image_longitudinal.core.config import Config
from image_longitudinal.core.config_keys import config_keys
from image_longitudinal.core.errors import ConfigError, did_you_mean
from image_longitudinal.core.network_kinds import check_networks

PRESETS = Path(__file__).resolve().parent.parent / "deployments" / "presets"


def preset_names() -> list[str]:
    """Names of the bundled presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(preset: str = "demo", file: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Build the configuration from the preset; values of the file replace its values, and overrides replace both.

    Args:
        preset: name of a file in deployments/presets.
        file: YAML (or JSON) file with any subset of the keys.
        overrides: ``section.key=value`` texts; the value is read as YAML.

    Raises:
        ConfigError: a file cannot be read, or keys or values are invalid; names all of them.
    """
    values: dict[str, Any] = {}
    for layer in config_layers(preset, file, overrides):
        values = _merge(values, layer.values)
    config = validate_config(values, where=file or f"preset {preset}")
    check_networks(config)
    return config


class Layer(NamedTuple):
    """Values that one source gives, over those of earlier layers."""

    source: str
    values: dict[str, Any]


def config_layers(preset: str = "demo", file: str | Path | None = None, overrides: Iterable[str] = ()) -> list[Layer]:
    """What :func:`load_config` merges, in order; later layers win. Arguments and errors as there."""
    if preset not in preset_names():
        do = did_you_mean(preset, preset_names())
        raise ConfigError("unknown preset", expected=f"one of {', '.join(preset_names())}", got=preset, do=do)
    layers = [Layer(f"preset {preset}", _read(PRESETS / f"{preset}.yaml"))]
    if file is not None:
        layers.append(Layer(str(file), _read(Path(file))))
    return layers + [Layer(f"--set {override}", _parse_override(override)) for override in overrides]


def validate_config(values: Mapping[str, Any], where: object = None) -> Config:
    """Build a :class:`Config` from plain values; ConfigError names all invalid keys."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        named = [(_location(problem), problem) for problem in error.errors()]
        # A problem of a whole list that only repeats a problem of one of its items is left out.
        repeated = {name for name, _ in named if any(other.startswith(f"{name}.") for other, _ in named)}
        problems = "; ".join(_describe(name, problem) for name, problem in named if name not in repeated)
        what = f"the configuration is not valid: {problems}"
        raise ConfigError(what, where=where, do="correct these values") from error


def _location(problem: Any) -> str:
    """Dotted name of the value, without pydantic's names of union members."""
    return ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("literal[", "tuple[")))


def _describe(location: str, problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        known = [key.name for key in config_keys()]
        close = did_you_mean(location, [*known, *{name.rpartition(".")[0] for name in known}])
        return f"{location}: unknown key" + (f" ({close})" if close else "")
    value = problem["input"]
    shown = "" if isinstance(value, Mapping) else f", got {value!r}"
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("cannot read the configuration file", where=path, got=error) from error
    if not isinstance(values, dict | None):
        what = "the configuration file is not a mapping"
        raise ConfigError(what, where=path, expected="section: {key: value}", got=type(values))
    return values or {}


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError("cannot read an override", expected="section.key=value", got=text)
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError("cannot read an override's value", where=key, expected="YAML", got=value) from error
    if isinstance(parsed, str) and re.fullmatch(r"[-+]?\d+\.?\d*[eE][-+]?\d+", value.strip()):
        parsed = float(parsed)  # YAML 1.1 reads 1e-4 as text
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
