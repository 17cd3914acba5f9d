"""What is compiled for an image: the modules that are imported, wherever the statement stands."""

import sys
from pathlib import Path

import pytest

from image_longitudinal.deployments.bytecode import forget, import_all, imports_of_others


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import os.path
from typing import TYPE_CHECKING
from image_longitudinal.core import errors
from . import sibling
if TYPE_CHECKING:
    import torch
else:
    import numpy
def late():
    from diffusers import UNet2DModel, DDPMScheduler
"""
    assert imports_of_others([source]) == [
        ("diffusers", "DDPMScheduler"), ("diffusers", "UNet2DModel"), ("numpy", ""), ("os.path", ""),
        ("typing", "TYPE_CHECKING"),
    ]  # fmt: skip


def test_a_package_that_is_not_installed_is_named_and_a_damaged_one_is_an_error() -> None:
    assert import_all([("json", "loads"), ("xml", "sax"), ("not_installed", "x")]) == ["not_installed"]
    with pytest.raises(ModuleNotFoundError, match=r"json\.nothing"):
        import_all([("json", "nothing")])


def test_the_byte_code_of_packages_that_are_rarely_loaded_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "seldom" / "part" / "__pycache__"
    cached.mkdir(parents=True)
    (cached / "a.pyc").touch()
    (tmp_path / "seldom" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    forget(["seldom", "not_installed"])
    assert [path.name for path in (tmp_path / "seldom" / "part").iterdir()] == []
