"""Text is UTF-8 whatever the locale: in the sources, and in processes under locales that are not UTF-8."""

import ast
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PRODUCT = ("core", "storage", "models", "tasks", "flows", "deployments", "image_longitudinal", "benchmarks")
READERS = {"read_text": 0, "write_text": 1, "open": 3, "fdopen": 3, "run": 99, "Popen": 99, "check_output": 99}
# Without Python's own UTF-8 mode, which it switches on in the locale C: text is ASCII then.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))


def depends_on_locale(call: ast.Call) -> bool:
    """Whether a call opens text without naming its encoding."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name not in READERS or "encoding" in given or (isinstance(function, ast.Attribute) and name == "open"):
        return False
    if READERS[name] == 99:
        return "text" in given or "universal_newlines" in given
    if name in ("open", "fdopen"):
        mode = given.get("mode", call.args[1] if len(call.args) > 1 else ast.Constant("r"))
        return "b" not in str(getattr(mode, "value", "b"))
    return len(call.args) <= READERS[name]


@pytest.mark.parametrize("room", PRODUCT)
def test_every_text_file_is_opened_as_utf8(room: str) -> None:
    files = [file for file in (ROOT / room).rglob("*.py") if not any(part.is_symlink() for part in file.parents)]
    assert files
    found = [f"{file.relative_to(ROOT)}:{call.lineno}" for file in files for call in calls(file)
             if depends_on_locale(call)]  # fmt: skip
    assert not found


@pytest.mark.parametrize(
    ("code", "depends"),
    [
        ("path.read_text()", True), ("path.read_text('utf-8')", False), ("path.write_text(x)", True), ("open(x)", True),
        ("open(x, 'rb')", False), ("open(x, 'w', encoding='utf-8')", False), ("run(x, text=True)", True),
    ],
)  # fmt: skip
def test_the_check_finds_what_it_is_for(code: str, depends: bool) -> None:
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert depends_on_locale(call) == depends


def in_locale(program: str, *arguments: str, **variables: str) -> bytes:
    """What a new process prints, as UTF-8, under ``variables``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:surrogateescape", **variables}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=True).stdout


SCANS = """
import sys
from image_longitudinal.storage.scans.scan_files import find_scans
from image_longitudinal.storage.scans.sources import local_scans
from pathlib import Path
found = find_scans(local_scans(sys.argv[1], Path(sys.argv[2])))
print(*((scan.name, scan.patient, scan.label, scan.path.exists()) for scan in found.scans), found.set_aside)
"""


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_names_of_scans_are_the_same_in_every_locale(tmp_path: Path, source: str) -> None:
    folder = tmp_path / "scans"
    for name in ("Größe/Auge-η.png", "Größe/Zebra.png", "Ärger.png", "CNV-7-1.jpeg", "σ.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    place = folder
    if source == "archive":
        place = tmp_path / "scans.tar"
        with tarfile.open(place, "w", encoding="utf-8") as archive:
            archive.add(folder, "scans")
    outputs = {
        in_locale(SCANS, str(place), str(tmp_path / f"scratch{number}"), **variables)
        for number, variables in enumerate(({"LC_ALL": "C.UTF-8"}, ASCII))
    }
    assert len(outputs) == 1
    text = outputs.pop().decode()
    assert "Ärger.png" in text
    assert "Größe/Auge-η', 'Größe', True" in text


PRESETS = """
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.nlme.kernels import cached
from pathlib import Path
for preset in ("demo", "scans", "scans-128", "small", "paper", "trial", "observational", "sites"):
    print(digest_of(load_config(preset)))
print(cached.digest_of_sources(Path(cached.__file__).parent))
"""


def test_presets_and_kernels_are_read_in_every_locale() -> None:
    assert in_locale(PRESETS, **ASCII) == in_locale(PRESETS, LC_ALL="C.UTF-8")
