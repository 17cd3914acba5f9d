"""config list, show and schema: complete, true, and readable again."""

import json
from pathlib import Path

import pytest
import yaml

from image_longitudinal.core.config import Config
from image_longitudinal.core.config_keys import config_keys, flattened
from image_longitudinal.core.presets import PRESETS, load_config, preset_names
from tests.cli.test_app import Command, command, refused

__all__ = ["command"]  # a fixture


def test_every_key_has_a_type_a_default_and_a_meaning() -> None:
    keys = {key.name: key for key in config_keys()}
    optional = {"vae.dp": None}  # not written where it is not used, so that digests stay
    assert keys.keys() == (flattened(Config().model_dump()) | optional).keys()
    for key in keys.values():
        assert key.type, key
        assert key.meaning.endswith("."), key
    plain = json.loads(Config().model_dump_json())
    assert {name: yaml.safe_load(key.default) for name, key in keys.items()} == flattened(plain) | optional
    assert keys["images.denoise"].choices == ("nlm", "bm3d", "none")
    assert keys["vae.image_size"].type == "integer ≥ 32, multiple of 32"
    assert keys["diffusion.min_snr_gamma"].type == "number > 0 or null"
    assert keys["dataset.association"].type == "list of number > 0 ≤ 1"


def test_keys_are_listed_by_prefix(command: Command) -> None:
    listed = command("config", "list", "dataset.")[1]
    assert "dataset.n_subjects = 512\n    integer ≥ 1. Subjects in all splits." in listed
    assert "vae." not in listed
    found = json.loads(command("config", "list", "evaluation.resnet", "--json")[1])["keys"]
    assert [key["name"] for key in found][:1] == ["evaluation.resnet.steps"]
    assert "no key begins like this" in refused(command("config", "list", "nonsense"))


@pytest.mark.parametrize("preset", preset_names())
def test_a_shown_configuration_reads_back_as_the_same(command: Command, tmp_path: Path, preset: str) -> None:
    (tmp_path / "mine.yaml").write_text("vae: {steps: 7}\noutcomes: {doses: [{amt: 2}]}\n")
    given = ("--preset", preset, "--config", "mine.yaml", "--set", "dataset.n_subjects=9")
    text = command("config", "show", *given)[1]
    for line in (
        "  steps: 7  # mine.yaml",
        "  n_subjects: 9  # --set dataset.n_subjects=9",
        f"seed: 1  # preset {preset}",
    ):
        assert line in text.splitlines()
    assert "  device: auto  # default" in text.splitlines()
    (tmp_path / "again.yaml").write_text(text)
    expected = load_config(preset, "mine.yaml", ["dataset.n_subjects=9"])
    assert load_config("demo", "again.yaml") == expected
    found = json.loads(command("config", "show", *given, "--json")[1])
    assert Config.model_validate(found["config"]) == expected
    assert found["sources"]["outcomes.doses"] == "mine.yaml"


def test_the_schema_beside_the_presets_is_that_of_the_configuration(command: Command) -> None:
    printed = command("config", "schema")[1]
    assert json.loads(printed) == json.loads(command("config", "schema", "--json")[1]) == Config.model_json_schema()
    assert (PRESETS / "config.schema.json").read_text() == printed
    for name in preset_names():
        first = (PRESETS / f"{name}.yaml").read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=config.schema.json"


@pytest.mark.parametrize("preset", preset_names())
def test_presets_follow_the_schema(preset: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load((PRESETS / f"{preset}.yaml").read_text()), Config.model_json_schema())
