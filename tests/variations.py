"""Every field of the configuration with another valid value, for tests of what a field decides."""

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from image_longitudinal.core.config import Config, PrivacyConfig, Section
from image_longitudinal.core.presets import load_config

OTHER = {  # names, valid ones
    "generator.backend": "vae", "outcomes.model": "emax", "dataset.eta_dims": [3, 4, 5], "compute.device": "cpu",
    "study.entries": [0, 1], "study.association": [{"effect": "ka", "level": 0.3}], "study.prognosis": [1.0, 0.0, 0.0],
    "study.covariates": [{"name": "age"}],
    "study.arms": [{"name": "one", "share": 0.25}, {"name": "two", "share": 0.75}],
    "study.sites": [{"name": "north", "share": 0.5, "strength": 1.0}, {"name": "south", "share": 0.5}],
    "study.assignment.direction": [1.0, 0.0, 0.0],
}  # fmt: skip


STUDY = (  # with arms and sites, so that every field of the section may have another value
    "study.arms=[{name: one, share: 0.5}, {name: two, share: 0.5}]",
    "study.sites=[{name: north, share: 0.5}, {name: south, share: 0.5}]",
)
WITH_ARMS = load_config("demo", overrides=STUDY).study


def field_paths(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and annotation of every field that is no section."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from field_paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


FIELDS = dict(field_paths())


def with_another_value(config: Config, path: str) -> Config:
    """The configuration with another valid value of one field; one of a study, with arms and sites to vary."""
    if path.startswith("study.") and not config.study.arms:
        config = config.model_copy(update={"study": WITH_ARMS})
    if path == "vae.dp":  # valid only if other fields have other values too
        dp = PrivacyConfig(noise_multiplier=1.0)
        private = config.vae.model_copy(update={"dp": dp, "cycle_weight": 0.0, "mixed_precision": "no"})
        return config.model_copy(update={"vae": private})
    content = config.model_dump(mode="json")
    *sections, name = path.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    before = inner[name]
    for value in [OTHER[path]] if path in OTHER else _candidates(before, FIELDS[path]):
        inner[name] = value
        try:
            changed = Config.model_validate(content)
        except ValidationError:
            continue
        if changed != config:
            return changed
    raise AssertionError(f"no other valid value of {path} found, beside {before}")


def _candidates(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value + 1, value + 32, value / 2, value + 0.05, *_literals(annotation)]
    if isinstance(value, list):
        return [value[:-1], [0.5], [{"time": 1.0}], [16]]
    return [*_literals(annotation), True, "phantom2", "2024-05-01", 7, 0.5, [0.5], [1, 2]]


def _literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in _literals(part)]
