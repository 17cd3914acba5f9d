"""The console script in this process: plans, refused input and help."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from image_longitudinal.cli.app import main

Result = tuple[int, str, str]  # exit status, stdout, stderr
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["image-longitudinal", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def refused(result: Result) -> str:
    """The error message, which is all of stderr, in one line."""
    status, _, errors = result
    assert status == 1
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


def test_every_command_has_help(command: Command) -> None:
    status, listed, _ = command("--help")
    assert status == 0
    for name in (
        "ingest", "train", "generate", "verify", "show", "evaluate", "score", "publish", "fetch", "simulate", "fit",
        "distill", "export", "models",
    ):  # fmt: skip
        assert f" {name} " in listed
        assert command(name, "--help")[0] == 0


def test_the_plan_is_printed_and_nothing_is_made(command: Command, tmp_path: Path) -> None:
    status, printed, _ = command("generate", "--preset", "paper", "--output", "out", "--dry-run")
    assert status == 0
    for expected in ("1,100,000", "550", "115,000 steps", "0.0526", "GB", " d "):
        assert expected in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.association=[1.5]", "dataset.association.0: Input should be less than or equal to 1, got 1.5"),
        ("dataset.subjects=5", "dataset.subjects: unknown key"),
        ("nonsense", "section.key=value"),
    ],
)
def test_impossible_values_are_refused_by_name(command: Command, override: str, message: str) -> None:
    assert message in refused(command("generate", "--output", "out", "--dry-run", "--set", override))
