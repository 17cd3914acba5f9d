"""Compiled kernels on disk: served to the next process, and never to one whose source differs anywhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paths import ROOT


def answer(folder: Path) -> str:
    """Result of a new process, and its number of cache hits."""
    code = "from package.entrance import run; print(run(2.0), sum(run.stats.cache_hits.values()))"
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_edit_of_a_module_that_a_kernel_calls_makes_a_new_kernel(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    heading = "from image_longitudinal.models.nlme.kernels.cached import cached_kernel\n"
    (package / "part.py").write_text(f"{heading}@cached_kernel\ndef part(x):\n    return 3.0 * x\n")
    (package / "entrance.py").write_text(
        f"{heading}from package.part import part\n@cached_kernel\ndef run(x):\n    return part(x) + 1.0\n"
    )
    assert answer(tmp_path) == "7.0 0"
    assert answer(tmp_path) == "7.0 1"
    (package / "part.py").write_text((package / "part.py").read_text().replace("3.0", "4.0"))
    assert answer(tmp_path) == "9.0 0"


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(len(data))]
)
def test_a_damaged_file_is_compiled_again(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    text = "from image_longitudinal.models.nlme.kernels.cached import cached_kernel\n@cached_kernel\ndef run(x):\n"
    (package / "entrance.py").write_text(text + "    return 3.0 * x\n", encoding="utf-8")
    assert answer(tmp_path) == "6.0 0"
    (file,) = (tmp_path / "cache").rglob(f"*.{kind}")
    file.write_bytes(damage(file.read_bytes()))
    assert answer(tmp_path) == "6.0 0"
    assert answer(tmp_path) == "6.0 1"
