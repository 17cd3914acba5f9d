"""Every example in the docstrings of readers runs and prints what it says; those that take minutes: tests/docs."""

from pathlib import Path

import pytest

from image_longitudinal.core.presets import load_config
from image_longitudinal.flows.generate_dataset import generate_dataset
from tests.docs.examples import RUNS, examples, failures, public


def test_examples_of_readers_print_what_they_say(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("demo", overrides=["generator.backend=phantom"])
    generate_dataset("datasets/demo", config=config, workspace="workspace")
    tests = [test for name, thing in public() if name not in RUNS for test in examples(name, thing)]
    assert len(tests) > 30
    assert "".join(map(failures, tests)) == ""
