"""What decides each product of training: exactly the right digests change with a field of the configuration."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from image_longitudinal.core.config import Config, DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.training.specs import (
    DiffusionTrainingSpec,
    DistillationSpec,
    RegistrationSpec,
    RemeasureSpec,
    VAETrainingSpec,
    pretrained_digest,
)
from tests.models.conftest import model_metadata
from tests.paths import ROOT
from tests.variations import FIELDS, with_another_value

MODEL = ModelVersion(Path("nowhere"), "a" * 64, {}, model_metadata())
TRAININGS = {"vae", "diffusion", "registration"}
EVERY = TRAININGS | {"distilled networks", "distillation", "remeasure"}
DECIDES = {  # digests that a section of the configuration, or one of its fields, decides
    "seed": EVERY,
    "vae": TRAININGS,
    "diffusion": TRAININGS - {"vae"},
    "probe": {"registration", "distillation", "remeasure"},
    "distillation": {"distilled networks", "distillation"},
    "generator.scheduler": {"distillation"},
    "generator.steps": {"distillation"},
    "compute.training_threads": EVERY,
    "compute.device": EVERY if torch.cuda.is_available() else set[str](),  # the other value is cpu
}


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
        "remeasure": RemeasureSpec.of(config, MODEL, images, "judge").digest,
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_changes_exactly_the_digests_it_decides(path: str) -> None:
    config, other_weights = load_config("small"), [f"vae.vgg_weights={__file__}"]  # a file that exists
    other = load_config("small", overrides=other_weights) if "vgg" in path else with_another_value(config, path)
    decided = DECIDES.get(path, DECIDES.get(path.partition(".")[0], set()))
    assert changed(digests(config), digests(other)) == decided


def test_images_start_and_code_versions_decide_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("small")
    before = digests(config)
    assert changed(before, digests(config, "others")) == TRAININGS | {"remeasure"}
    assert changed(before, digests(config, start=MODEL)) == TRAININGS
    monkeypatch.setattr(VAETrainingSpec, "code_version", 1_000)
    assert changed(before, digests(config)) == TRAININGS


def test_a_vae_alone_does_not_depend_on_the_diffusion_configuration() -> None:
    configs = load_config("small"), load_config("small", overrides=["diffusion.steps=1"])
    vaes = [VAETrainingSpec.of(config, "images") for config in configs]
    one, other = (
        RegistrationSpec.from_config(config, vae=vae, diffusion=None).digest
        for config, vae in zip(configs, vaes, strict=True)
    )
    assert one == other != digests(configs[0])["registration"]


def test_digests_are_the_same_in_another_process() -> None:
    program = "from tests.tasks.training.test_specs import *; print(*digests(load_config('small')).values())"
    there = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.split() == list(digests(load_config("small")).values())


def test_given_weights_decide_by_their_content(tmp_path: Path) -> None:
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    config = load_config("small", overrides=[f"vae.vgg_weights={weights}"])
    with pytest.raises(ModelError, match=r"VGG16 weights are missing .*vae\.vgg_weights"):
        VAETrainingSpec.of(config, "images")
    whole = DiffusionConfig(kind="stable-diffusion", pretrained=str(tmp_path))
    latent = DiffusionConfig(kind="latent", autoencoder=str(tmp_path / "vae"))
    weights.parent.mkdir()
    found = set()
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        assert pretrained_digest(latent) == pretrained_digest(whole) is not None  # the same files
        found |= {VAETrainingSpec.of(config, "images").digest, pretrained_digest(whole)}
    assert len(found) == 4
    assert pretrained_digest(DiffusionConfig(kind="residual", pretrained=str(tmp_path))) is None
    assert pretrained_digest(DiffusionConfig(kind="stable-diffusion", pretrained="name/on-the-hub")) is None
