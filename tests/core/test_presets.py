"""Preset, file and overrides: each over the one before, and refusals that name file and key."""

from operator import attrgetter
from pathlib import Path

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import load_config, preset_names
from tests.paths import ROOT


def override(*texts: str) -> Config:
    return load_config("demo", overrides=texts)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_says_how_to_run_it(name: str) -> None:
    assert load_config(name) != Config()
    text = (ROOT / "deployments" / "presets" / f"{name}.yaml").read_text()
    assert text.splitlines()[1].startswith(f"# {name}: ")  # after the line that names the schema
    assert "# Command:" in text


def test_the_papers_preset_is_the_published_system() -> None:
    config = load_config("paper")
    assert (config.vae.image_size, config.vae.latent_dim, config.vae.width) == (224, 128, 1.0)
    assert (config.vae.kl_weight, config.vae.learning_rate, config.vae.batch_size) == (0.037558578, 1e-3, 5)
    diffusion = config.diffusion
    assert (diffusion.kind, diffusion.image_size, diffusion.steps) == ("stable-diffusion", 512, 115_000)
    assert (diffusion.min_snr_gamma, diffusion.noise_offset, diffusion.mixed_precision) == (5, 0.1, "fp16")
    assert (config.generator.scheduler, config.generator.steps) == ("sde-dpm++", 10)  # the original took 50 of ddpm
    assert config.dataset.n_subjects == 1_100_000
    assert config.dataset.association == (1.0, 0.5, 0.1, 0.0526, 0.02)
    assert config.outcomes.times == tuple(i / 2 for i in range(21))


def test_an_override_beats_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("vae: {steps: 5, width: 0.5}\n")
    config = load_config("demo", file, ["vae.steps=6"])
    assert (config.vae.steps, config.vae.width) == (6, 0.5)
    assert config.vae.image_size == load_config("demo").vae.image_size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vae.learning_rate=1e-4", 1e-4), ("vae.learning_rate=2.5E-3", 2.5e-3), ("vae.steps=1e3", 1000),
        (" vae.steps =12", 12), ("dataset.association=[1, 0.5, 2e-2]", (1.0, 0.5, 0.02)),
        ("dataset.eta_dims=[3, 0]", (3, 0)), ("dataset.name=nan", "nan"), ("dataset.name='1e5'", "1e5"),
        ("dataset.date=2024-05-01", "2024-05-01"), ("diffusion.min_snr_gamma=null", None),
        ("diffusion.mixed_precision=no", "no"), ("generator.backend=package.module:make", "package.module:make"),
        ("diffusion.pretrained=/a=b", "/a=b"),
    ],
)  # fmt: skip
def test_overrides_are_read_as_people_write_them(text: str, value: object) -> None:
    assert attrgetter(text.split("=")[0].strip())(override(text)) == value


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vae.steps", "section.key=value"), ("=3", "section.key=value"), ("vae.steps=[", "vae.steps"),
        ("nothing=3", "nothing: unknown key"), ("dataset=3", "dataset: "), ("seed.x=3", "seed: "),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_meant_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(text)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["vae.kind=convolutional"], "vae.kind and diffusion.kind do not fit"),
        (["diffusion.kind=latent"], "vae.kind and diffusion.kind do not fit"),
        (["vae.latent_dim=4"], "expected 5 or more"),
        (["vae.image_size=128"], "expected one size for both; got 128 and 64"),
        (
            ["vae.kind=convolutional", "vae.dp.epsilon=3", "diffusion.kind=residual"],
            "private VAE cannot have a diffusion model .*got diffusion. Set generator.backend=vae",
        ),
    ],
)
def test_networks_that_do_not_fit_each_other_are_refused(texts: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        override(*texts)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"expected one of demo, .*; got dmeo"):
        load_config("dmeo")


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "just words", b"\xff\xfe\x00"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config("demo", file)


def test_a_missing_file_is_refused_an_empty_one_changes_nothing_and_json_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*none\.yaml"):
        load_config("demo", tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert load_config("demo", tmp_path / "empty.yaml") == load_config("demo")
    file = tmp_path / "whole.json"
    file.write_text(load_config("small").model_dump_json())
    assert load_config("demo", file) == load_config("small")
