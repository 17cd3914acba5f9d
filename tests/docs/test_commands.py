"""Every command line in README, the documentation and the gallery is one that the program understands."""

import re
import shlex
from collections.abc import Iterator

import pytest
import typer
from typer.main import get_command

from image_longitudinal.cli.app import app
from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> Iterator[str]:
    """Command lines in blocks and in running text, without what is left out (...) and shell around them."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8").replace(" \\\n", " ")
        if "generated/" in str(path):
            continue  # made from the program itself
        found = re.findall(r"^(?:\S*bin/)?image-longitudinal ([^\n]+)", text, re.M)
        found += re.findall(r"`image-longitudinal ([^`]+)`", text)
        for line in found:
            line = re.split(r"\s[|>#]|\s2>|\s&&|\s\|\|", line)[0].strip()
            if "..." not in line and not re.match(r"[A-Z ]+$|--", line):
                yield line


def parsed(words: list[str]) -> None:
    """Parse a command line without running it: an unknown command, option or choice is an error.

    What a page leaves out, because it speaks of one option, may be missing.
    """
    group = get_command(app)
    context = group.make_context("image-longitudinal", list(words), resilient_parsing=True)
    command = group
    while hasattr(command, "commands"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None, f"no command {name}"
        command = found
    try:
        command.make_context(command.name, list(words), parent=context)
    except typer.BadParameter as error:
        if type(error).__name__ != "MissingParameter":
            raise


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_the_program_understands(line: str) -> None:
    words = shlex.split(line)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRATCH", "/tmp")
        parsed(words)
