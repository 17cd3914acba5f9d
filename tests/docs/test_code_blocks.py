"""Every block of code in README and the documentation runs, or says in a comment above it why it does not.

Python is executed, block after block of a page with the same names; shell with -e. Tutorials are notebooks
that ``make docs`` runs, docs/howto/reading.md has a test of its own (tests/storage/dataset), the reference is made.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import image_longitudinal as il
from tests.paths import ROOT

OWN_TEST = "howto/reading.md"
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$", re.S | re.M
)
NO_CODE = ("", "text", "yaml")  # listings of files, and of files' contents
GIVEN = {"my_model": lambda images: np.zeros((len(images), 3))}  # what a page asks its reader to bring


class Block(NamedTuple):
    """A block of code: its page, language and text, and why it is not run."""

    page: str
    language: str
    code: str
    reason: str


def blocks() -> Iterator[Block]:
    """Of all pages that people write."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    for path in pages:
        name = str(path.relative_to(ROOT))
        if "generated/" in name or "/gallery/" in name:
            continue
        for found in BLOCK.finditer(path.read_text(encoding="utf-8")):
            language = found["language"].strip()
            if language not in NO_CODE and not language.startswith("{"):
                yield Block(name, language, found["code"], found["reason"] or "")


BLOCKS = list(blocks())
RUN = [one for one in BLOCKS if not one.reason and OWN_TEST not in one.page]


def test_every_block_runs_or_has_a_reason() -> None:
    assert len(RUN) > 10
    others = {one.language for one in BLOCKS if not one.reason} - {"python", "sh", "sql"}
    assert not others, "give a reason: <!-- not run: ... -->"
    assert all(len(one.reason) >= 10 for one in BLOCKS if one.reason)


@pytest.mark.docs
@pytest.mark.parametrize("page", sorted({one.page for one in RUN}))
def test_the_code_of_a_page_runs(page: str, place: Path, environment: dict[str, str]) -> None:
    names: dict[str, object] = {"il": il, **GIVEN}
    for block in RUN:
        if block.page != page:
            continue
        if block.language == "python":
            exec(block.code, names)
        else:
            done = subprocess.run(["bash", "-e", "-c", block.code], cwd=place, env=environment)
            assert done.returncode == 0, block.code
