"""Names of others reach the terminal as text: through what commands print, log and fail with."""

import io
import logging
import re
import sys
from pathlib import Path

import pytest
import typer

from image_longitudinal.cli import app as program
from image_longitudinal.cli.escaping import escape_record, escaping
from image_longitudinal.core.errors import StorageError
from tests.paths import ROOT

HOSTILE = "\x1b]0;title\x07\x1b[2Jname"


@pytest.mark.parametrize("tty", [False, True])
def test_a_command_prints_text(monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: tty)
    monkeypatch.setattr(sys, "stdout", stream)

    def command(name: str) -> str:
        typer.echo(f"subject of {name}")
        print(name)
        return name

    assert escaping(command)(HOSTILE) == HOSTILE
    first, second = stream.getvalue().splitlines()  # Click leaves out what clears the screen if it is no terminal
    assert first.startswith("subject of \\x1b]0;title\\x07")
    assert second == "\\x1b]0;title\\x07\\x1b[2Jname"
    assert stream.getvalue().replace("\n", "").isprintable()
    assert sys.stdout is stream


def test_every_command_is_escaped() -> None:
    commands = [*program.app.registered_commands, *program.models.app.registered_commands]
    assert len(commands) > 15
    assert all(hasattr(command.callback, "__wrapped__") for command in commands)


def test_an_error_is_printed_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise StorageError("no such file", where=HOSTILE)

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(SystemExit):
        program.main()
    assert capsys.readouterr().err == "error: no such file (\\x1b]0;title\\x07\\x1b[2Jname)\n"


def test_a_log_record_is_text() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "scan %s of %d", (HOSTILE, 7), None)
    assert escape_record(record)
    assert record.getMessage() == "scan \\x1b]0;title\\x07\\x1b[2Jname of 7"


def test_html_is_made_in_one_place_and_nothing_in_a_template_is_marked_safe() -> None:
    makers = [path for path in Path(ROOT / "tasks").rglob("*.py") if "jinja2" in path.read_text()]
    assert [path.name for path in makers] == ["pages.py"]
    for template in (ROOT / "tasks" / "reports" / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape\s+false|Markup", template.read_text()), template.name
