"""What decides each product of training: exactly the right digests change with a field of the configuration."""

import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from image_longitudinal.core.config import Config, DiffusionConfig, Section
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.training.spec import (
    DiffusionTrainingSpec,
    DistillationSpec,
    RegistrationSpec,
    RemeasureSpec,
    VAETrainingSpec,
    pretrained_digest,
)
from tests.models.conftest import model_metadata
from tests.paths import ROOT

MODEL = ModelVersion(Path("nowhere"), "a" * 64, {}, model_metadata())
TRAININGS = {"vae", "diffusion", "registration"}
EVERY = TRAININGS | {"distilled networks", "distillation", "remeasure"}


def digests(config: Config, images: str = "images", start: ModelVersion | None = None) -> dict[str, str]:
    vae = VAETrainingSpec.of(config, images, start)
    diffusion = DiffusionTrainingSpec.of(config, vae, "weights")
    distillation = DistillationSpec.of(config, MODEL)
    return {
        "vae": vae.digest,
        "diffusion": diffusion.digest,
        "registration": RegistrationSpec.from_config(config, vae=vae, diffusion=diffusion).digest,
        "distilled networks": distillation.networks.digest,
        "distillation": distillation.digest,
        "remeasure": RemeasureSpec.from_config(config, model=MODEL.digest, images=images).digest,
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def fields(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a configuration that is not itself a section."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, (*path, name))
        else:
            yield (*path, name)


def others(value: Any, annotation: Any) -> Iterator[Any]:
    """Values like this one, some of which the field may accept."""
    for argument in typing.get_args(annotation):
        yield from [one for one in typing.get_args(argument) if isinstance(one, str)]
        if isinstance(argument, str):
            yield argument
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value + 32, value * 2, value / 2, 0.05)
    elif isinstance(value, str):
        yield from (f"{value}x", "2024-05-01")
    elif isinstance(value, list):
        yield from ([*value, 16], value[:-1], [0.3], [{"amt": 2}])
    yield from (__file__, 1.5, True, "2024-05-01", [0.5], 7, [0])


def with_another_value(config: Config, path: tuple[str, ...]) -> Config:
    content = config.model_dump(mode="json")
    holder, section = content, Config
    for name in path[:-1]:
        holder, section = holder[name], section.model_fields[name].annotation  # type: ignore[assignment]
    before = holder[path[-1]]
    for value in others(before, section.model_fields[path[-1]].annotation):
        holder[path[-1]] = value
        try:
            after = Config.model_validate(content)
        except ValidationError:
            continue
        if after != config:
            return after
    raise AssertionError(f"no other value of {path}")


def decided_by(path: tuple[str, ...]) -> set[str]:
    """Which digests a field decides."""
    match path:
        case ("seed",):
            return EVERY
        case ("vae", _):
            return TRAININGS
        case ("diffusion", _):
            return TRAININGS - {"vae"}
        case ("probe", _):
            return {"registration", "distillation", "remeasure"}
        case ("distillation", _):
            return {"distilled networks", "distillation"}
        case ("generator", "scheduler" | "steps"):
            return {"distillation"}
    return set()


@pytest.mark.parametrize("path", fields(Config), ids=".".join)
def test_a_field_changes_exactly_the_digests_it_decides(path: tuple[str, ...]) -> None:
    config = load_config("demo")
    assert changed(digests(config), digests(with_another_value(config, path))) == decided_by(path)


def test_images_and_start_decide_trainings() -> None:
    config = load_config("demo")
    assert changed(digests(config), digests(config, "others")) == TRAININGS | {"remeasure"}
    assert changed(digests(config), digests(config, start=MODEL)) == TRAININGS


def test_a_vae_alone_does_not_depend_on_the_diffusion_configuration() -> None:
    one, other = load_config("demo"), load_config("demo", overrides=["diffusion.steps=1"])
    vaes = [(config, VAETrainingSpec.of(config, "images")) for config in (one, other)]
    alone = [RegistrationSpec.from_config(config, vae=vae, diffusion=None).digest for config, vae in vaes]
    assert alone[0] == alone[1] != digests(one)["registration"]


def test_code_versions_change_the_digests_of_everything_built_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("demo")
    before = digests(config)
    monkeypatch.setattr(VAETrainingSpec, "code_version", 1_000)
    assert changed(before, digests(config)) == TRAININGS


def test_digests_are_the_same_in_another_process() -> None:
    program = "from tests.tasks.training.test_spec import *; print(*digests(load_config('demo')).values())"
    there = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.split() == list(digests(load_config("demo")).values())


def test_other_vgg16_weights_under_the_same_name_are_another_vae(tmp_path: Path) -> None:
    weights = tmp_path / "vgg16.safetensors"
    config = load_config("demo", overrides=[f"vae.vgg_weights={weights}"])
    with pytest.raises(ModelError, match=r"VGG16 weights are missing .*vae\.vgg_weights"):
        VAETrainingSpec.of(config, "images")
    found = set()
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.add(VAETrainingSpec.of(config, "images").digest)
    assert len(found) == 2


def test_other_weights_in_a_pretrained_folder_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"one")
    config = DiffusionConfig(kind="stable-diffusion", pretrained=str(tmp_path))
    first = pretrained_digest(config)
    weights.write_bytes(b"two")
    assert None not in (first, pretrained_digest(config))
    assert pretrained_digest(config) != first
    latent = DiffusionConfig(kind="latent", autoencoder=str(tmp_path / "vae"))
    assert pretrained_digest(latent) == pretrained_digest(config)  # the same files
    assert pretrained_digest(DiffusionConfig(kind="residual", pretrained=str(tmp_path))) is None
    assert pretrained_digest(DiffusionConfig(kind="stable-diffusion", pretrained="name/on-the-hub")) is None
