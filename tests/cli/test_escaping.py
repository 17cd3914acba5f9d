"""Names of others reach the terminal as text: through what commands print, log and fail with."""

import json
import logging
import re
from pathlib import Path

import pytest

from image_longitudinal.cli import app as program
from image_longitudinal.cli.console import note, print_result, printing, show
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.escapes import for_terminal, for_terminal_json
from image_longitudinal.core.progress import Step, report
from tests.paths import ROOT

HOSTILE = "\x1b]0;title\x07\x1b[2Jname"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_command_prints_text(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with printing("show", as_json=as_json):
        note(f"subject of {HOSTILE}")
        show(HOSTILE, name=HOSTILE)
        print_result(HOSTILE)
    printed = capsys.readouterr()
    assert "subject of \\x1b]0;title\\x07" in (printed.err if as_json else printed.out)
    for text in (printed.out, printed.err):
        assert text.replace("\n", "").isprintable()
    if as_json:
        assert json.loads(printed.out) == {"name": HOSTILE, "result": HOSTILE}, "the names are the same"


@pytest.mark.parametrize("name", ["\x1b[2J", "\x9b2J", "\u202egnp", "é\n"])
def test_json_for_a_terminal_is_the_same_json(name: str) -> None:
    text = for_terminal_json(json.dumps({name: name}, indent=1, ensure_ascii=False))
    assert json.loads(text) == {name: name}
    assert for_terminal(text) == text


def test_progress_and_log_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with printing("show", log_file=log):
        report(Step(HOSTILE))
        logging.getLogger("image_longitudinal.x").warning("scan %s of %d", HOSTILE, 7)
    expected = "scan \\x1b]0;title\\x07\\x1b[2Jname of 7"
    assert expected in capsys.readouterr().err
    assert expected in log.read_text(encoding="utf-8")
    assert "\x1b" not in log.read_text(encoding="utf-8")


def test_nothing_is_printed_past_the_edges() -> None:
    """The display, the log and the console escape; --version and the error of ``main`` are the only others."""
    printing_modules = {
        path.name
        for path in Path(ROOT / "image_longitudinal" / "cli").rglob("*.py")
        if re.search(r"\bprint\(|\becho\(|std(out|err)\.write", path.read_text(encoding="utf-8"))
    }
    assert printing_modules == {"app.py", "console.py", "display.py", "logs.py"}


def test_an_error_is_printed_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise StorageError("no such file", where=HOSTILE)

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit):
        program.main()
    assert capsys.readouterr().err == "error: no such file (\\x1b]0;title\\x07\\x1b[2Jname)\n"


def test_html_is_made_in_one_place_and_nothing_in_a_template_is_marked_safe() -> None:
    makers = [path for path in Path(ROOT / "tasks").rglob("*.py") if "jinja2" in path.read_text()]
    assert [path.name for path in makers] == ["pages.py"]
    for template in (ROOT / "tasks" / "reports" / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape\s+false|Markup", template.read_text()), template.name
