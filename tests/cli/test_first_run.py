"""A first run in an awkward place: a folder with odd letters, a home that cannot be written, a narrow dumb terminal."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.engine.prefect_setup import configure_prefect
from tests.storage.conftest import write_dataset

NAME = "a b/ü=1"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder that nobody can write to, not even root."""
    folder = tmp_path / "home"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode and os.geteuid() == 0:
        pytest.skip("no file system can be mounted here, and root can write anywhere")
    folder.chmod(0o555) if mounted.returncode else None
    yield folder
    subprocess.run(["umount", folder], capture_output=True, check=False)


class Place:
    """Commands in the folder ``a b/ü=1`` with umask 077, without display, colours and a terminal that can do more."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder / NAME
        self.folder.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PREFECT_HOME")}
        given = {"HOME": str(home), "XDG_CACHE_HOME": "", "TERM": "dumb", "COLUMNS": "60"}
        self.environment = {**kept, **given}

    def run(self, *words: object) -> str:
        """The output of a command that ends well."""
        done = subprocess.run(
            [sys.executable, "-m", "image_longitudinal.cli.app", *map(str, words)], env=self.environment, umask=0o077,
            cwd=self.folder, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def place(tmp_path: Path, home: Path) -> Place:
    return Place(tmp_path, home)


def test_a_data_set_is_shown_verified_exported_and_copied(place: Place) -> None:
    write_dataset(open_root(place.folder / "data"))
    assert "22 subjects" in place.run("show", "data")
    assert "all as recorded" in place.run("verify", "data", "--sample", "0")
    place.run("export", "data", "test.csv", "--level", "1")
    assert stat.S_IMODE((place.folder / "test.csv").stat().st_mode) == 0o600
    copied = place.run("publish", "data", "a copy=2")
    assert copied.rstrip().endswith("next: image-longitudinal show 'a copy=2'")
    assert "22 subjects" in place.run("show", place.folder / "a copy=2")
    assert "Prefect's folder" in place.run("doctor")


def test_help_and_plans_are_legible_in_sixty_columns(place: Place) -> None:
    for words in (["--help"], ["generate", "--help"], ["models", "promote", "-h"]):
        lines = place.run(*words).splitlines()
        assert max(map(len, lines)) <= 60
    text = " ".join(place.run("generate", "--help").replace("│", "").split())
    assert "--output" in text
    assert "Examples:" in text
    assert "550" in place.run("generate", "--preset", "paper", "--output", "memory://ü", "--dry-run")


@pytest.mark.operations
def test_a_table_is_simulated_although_no_home_can_be_written(place: Place) -> None:
    printed = place.run("simulate", "trial ü.csv", "--model", "one-compartment", "--subjects", "3")
    assert (place.folder / "trial ü.csv").read_text().startswith("ID,")
    following = re.search(r"^next: (.*)$", printed, re.MULTILINE)
    assert following
    assert "fit 'trial ü.csv'" in following[1]
    assert "--output 'trial ü-fit'" in following[1]


def test_a_home_that_cannot_be_written_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    configure_prefect()
    chosen = Path(os.environ["PREFECT_HOME"])
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    assert not list(chosen.iterdir())
    shutil.rmtree(chosen)
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("HOME", str(chosen.parent))
    configure_prefect()
    assert "PREFECT_HOME" not in os.environ
