"""Every key of the configuration with its type, default and meaning."""

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from image_longitudinal.core.config import Config


class ConfigKey(NamedTuple):
    """One key: its dotted name, its type in words, the default as YAML, and what it means."""

    name: str
    type: str
    default: str
    meaning: str
    choices: tuple[str, ...] = ()


def config_keys(prefix: str = "") -> list[ConfigKey]:
    """All keys whose names begin with ``prefix``, in the order of the sections."""
    return [key for key in keys_of(Config, "") if key.name.startswith(prefix)]


def yaml_value(value: Any) -> str:
    """A plain value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested sections by dotted name; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def keys_of(section: type[BaseModel], prefix: str) -> Iterator[ConfigKey]:
    """The keys of one section and of those in it, in order; their names begin with ``prefix``."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        plain = [one.model_dump() for one in default] if _holds_sections(default) else _plain(default)
        text = "needed" if field.is_required() else yaml_value(plain)
        choices = tuple(_choices(field.annotation))
        yield ConfigKey(f"{prefix}{name}", _type_text(field.annotation, field), text, field.description or "", choices)


def _holds_sections(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type_text(kind: Any, field: FieldInfo | None = None) -> str:
    """A type in words with its bounds: integer ≥ 1, one of nlm, bm3d, none, list of number > 0 ≤ 1."""
    bounds = "".join(_bound(mark) for mark in (field.metadata if field else ()))
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        marks: list[Any] = []
        for mark in inner[1:]:
            marks += mark.metadata if isinstance(mark, FieldInfo) else [mark]
        return _type_text(inner[0]) + "".join(map(_bound, marks)) + bounds
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _type_text(one) + bounds for one in inner)
    if origin is tuple:
        return f"list of {_type_text(inner[0])}"
    names = {int: "integer", float: "number", bool: "true or false", str: "text"}
    return names.get(kind, "mapping") + bounds


def _bound(mark: Any) -> str:
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if type(mark) is getattr(annotated_types, name.capitalize()):
            return f" {sign} {getattr(mark, name)}"
    return f", multiple of {mark.multiple_of}" if isinstance(mark, annotated_types.MultipleOf) else ""


def _choices(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) is not tuple:
        for one in get_args(kind):
            yield from _choices(one)
