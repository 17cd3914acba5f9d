"""The examples in docstrings that run flows and fits; those of readers are in tests/e2e."""

from pathlib import Path

import pytest

import image_longitudinal as il
from tests.docs.examples import RUNS, examples, failures


@pytest.mark.docs
@pytest.mark.parametrize("name", RUNS)
def test_the_example_prints_what_it_says(name: str, place: Path) -> None:
    tests = examples(name, getattr(il, name))
    assert tests, "a public function needs an example"
    assert "".join(map(failures, tests)) == ""
