"""The console script in this process: plans, refused input, help, JSON and statuses."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer

import image_longitudinal as il
from image_longitudinal.cli import config, models
from image_longitudinal.cli.app import app, main
from image_longitudinal.cli.commands import EXAMPLES
from image_longitudinal.storage.io.open import open_root
from tests.storage.conftest import TIMES, write_dataset

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
    """The error message: all of stderr but what a busy machine adds."""
    status, _, errors = result
    assert status == 1
    first, *more = (line for line in errors.splitlines() if ": at work for " not in line)
    assert first.startswith("error: ")
    assert all(line.startswith(f"  {number}. ") for number, line in enumerate(more, 1)), "several problems are numbered"
    return "; ".join([first, *more])


def test_every_command_has_help(command: Command) -> None:
    status, listed, _ = command("--help")
    assert status == 0
    for name in (
        "ingest", "train", "generate", "verify", "show", "evaluate", "score", "publish", "fetch", "simulate", "fit",
        "covariates", "compare",
        "distill", "export", "models",
    ):  # fmt: skip
        assert f" {name} " in listed
        assert command(name, "--help")[0] == 0


def test_the_plan_is_printed_and_nothing_is_made(command: Command, tmp_path: Path) -> None:
    status, printed, _ = command("generate", "--preset", "paper", "--output", "memory://out", "--dry-run")
    assert status == 0
    for expected in ("1,100,000", "550", "115,000 steps", "0.0526", "GB", " d "):
        assert expected in printed
    assert not (tmp_path / "out").exists()
    found = json.loads(command("generate", "--preset", "paper", "--output", "memory://out", "--dry-run", "--json")[1])
    assert found["plan"] == printed.splitlines()


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


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_command_shows_two_examples_that_can_be_parsed(command: Command, name: str) -> None:
    status, text, _ = command(*name.split(), "--help")
    shown, examples = " ".join(text.split()), EXAMPLES[name]
    assert status == 0
    assert len(examples) == 2
    for example in examples:
        assert example in shown
        program, *words = shlex.split(example)
        assert program == "image-longitudinal"
        group: Any = typer.main.get_command(app)
        with group.make_context(program, list(words)) as context:
            while hasattr(group, "commands"):
                found, group, words = group.resolve_command(context, words)
                context = group.make_context(found, list(words), parent=context)  # exits where an option is unknown
        assert context.command_path == f"image-longitudinal {name}"


def test_every_command_is_in_the_list_of_examples() -> None:
    groups = {"": app, "models ": models.app, "config ": config.app}
    commands = {prefix + str(one.name) for prefix, group in groups.items() for one in group.registered_commands}
    assert commands == EXAMPLES.keys()


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version")[1] == f"image-longitudinal {il.__version__}\n"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (["genrate", "--output", "out"], "Did you mean 'generate'?"),
        (["generate", "--outputs", "out"], "(Possible options: --output)"),
        (["generate", "--output", "out", "--dry-run", "--preset", "dmeo"], "Did you mean demo?"),
        (
            ["generate", "--output", "out", "--dry-run", "--set", "dataset.n_subject=5"],
            "did you mean dataset.n_subjects",
        ),
        (["generate", "--output", "out", "--dry-run", "--set", "datset.n_subjects=5"], "did you mean dataset?"),
        (["config", "list", "datast"], "Did you mean dataset?"),
    ],
)
def test_a_slip_of_the_keyboard_is_answered_with_what_may_be_meant(
    command: Command, words: list[str], question: str
) -> None:
    status, _, errors = command(*words)
    assert status in (1, 2)
    assert question in " ".join(errors.replace("│", "").split())


def test_a_command_line_that_cannot_be_read_ends_with_status_2(command: Command) -> None:
    for words in (["nonsense"], ["show"], ["show", "data", "--subject", "x"], ["show", "data", "--subject", "-1"]):
        assert command(*words)[0] == 2


def test_a_plan_names_what_is_odd(command: Command) -> None:
    words = ("generate", "--output", "out", "--dry-run", "--set", "generator.backend=phantom")
    assert "warning" not in command(*words)[1]
    status, printed, _ = command(
        *words, "--set", "dataset.n_subjects=4", "--set", "dataset.shard_size=9", "--set", "generator.image_size=71"
    )
    assert status == 0
    for expected in ("no test subjects", "dataset.shard_size 9 is above", "evaluate crops"):
        assert expected in printed


def test_home_and_variables_of_paths_are_expanded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/nowhere at all")
    assert "/nowhere at all/data" in refused(command("show", "$PLACE/data"))
    monkeypatch.setenv("HOME", "/nowhere/else")
    assert "/nowhere/else/data" in refused(command("show", "~/data"))
    monkeypatch.delenv("PLACE")
    assert "variable of a path is not set" in refused(command("show", "$PLACE/data"))


@pytest.mark.parametrize("scheme", ["ftp", "foo", "S4"])
def test_an_unknown_kind_of_address_is_answered_with_the_known_ones(command: Command, scheme: str) -> None:
    message = refused(command("show", f"{scheme}://host/data"))
    for expected in (f"got {scheme.lower()}://", "s3://", "hf://", "gs://"):
        assert expected in message


def test_quiet_prints_the_result_alone_and_json_is_one_document(command: Command, tmp_path: Path) -> None:
    root = open_root(str(tmp_path / "set"))
    write_dataset(root)
    status, printed, errors = command("show", "set", "--json")
    found = json.loads(printed)
    assert (status, errors) == (0, "")
    assert found["manifest"]["n_subjects"] == 22
    status, printed, errors = command("export", "set", "test.csv", "--level", "1", "--json")
    assert (status, errors) == (0, "")
    assert json.loads(printed) == {"rows": 22 * (len(TIMES) + 1), "result": "test.csv"}
    assert command("export", "set", "again.csv", "--level", "1", "--quiet")[1].splitlines()[-1] == "again.csv"


def test_an_export_is_written_over_only_on_request_and_in_the_format_of_its_name(
    command: Command, tmp_path: Path
) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    export = ("export", "set", "--level", "1")
    for name in ("x.csv", "x.parquet", "X.CSV"):
        assert command(*export, name)[0] == 0
    assert pq.read_table(tmp_path / "x.parquet").num_rows == len((tmp_path / "x.csv").read_text().splitlines()) - 1
    assert (tmp_path / "X.CSV").read_text() == (tmp_path / "x.csv").read_text()
    (tmp_path / "x.csv").write_text("mine")
    assert "exists already" in refused(command(*export, "x.csv"))
    assert (tmp_path / "x.csv").read_text() == "mine"
    assert command(*export, "x.csv", "--overwrite")[0] == 0
    assert (tmp_path / "x.csv").read_text().startswith("ID,")
    message = refused(command(*export, "x.xlsx"))
    assert ".csv or .parquet" in message


def test_an_export_to_another_home_takes_levels_and_splits_and_says_what_is_next(
    command: Command, tmp_path: Path
) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    export = ("export", "set", "tars", "--to", "webdataset", "--level", "1", "--split", "test")
    status, printed, _ = command(*export)
    assert status == 0
    assert "7 subjects, 0 of them were already there" in printed
    assert 'next: webdataset.WebDataset("tars/SPLIT-00000.tar"' in printed
    assert json.loads(command(*export, "--json")[1])["kept"] == 7
    assert "holds another export" in refused(command(*export, "--split", "train"))
    assert "Did you mean webdataset?" in refused(command("export", "set", "other", "--to", "webdatset"))
    several = "a table is of one level; expected --level, one of 1.0, 0.0526; got "
    assert f"{several}none" in refused(command("export", "set", "x.csv"))
    assert f"{several}1.0, 0.0526" in refused(command("export", "set", "x.csv", "--level", "1", "--level", "0.0526"))


def test_faults_that_verify_finds_end_it_with_status_3_and_are_listed(command: Command, tmp_path: Path) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    verify = ("verify", "set", "--sample", "0")
    status, printed, _ = command(*verify, "--json")
    assert status == 0
    assert json.loads(printed)["report"]["problems"] == []
    (tmp_path / "set" / "extra.txt").write_text("?")
    status, printed, errors = command(*verify, "--json")
    assert status == 3
    assert [problem["path"] for problem in json.loads(printed)["report"]["problems"]] == ["extra.txt"]
    assert errors.count("error: 1 problems found") == 1
    assert command("verify", "nothing", "--sample", "0")[0] == 1


@pytest.mark.parametrize(
    "line",
    [
        "show none", "verify none --sample 0", "export none x.csv --level 1", "export set x.csv --level 0.3",
        "export set x.txt --level 1", "fetch none a/b/c", "publish none a/b", "convert none a/b", "convert set a/b",
        "fetch set a/b/c --split nonsense", "show set --subject 99", "models show nonsense", "models import none",
        "score none mine.parquet --output a/b", "score set none.parquet --output a/b",
    ],
)  # fmt: skip
def test_a_failed_command_leaves_nothing(command: Command, tmp_path: Path, line: str) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    refused(command(*line.split()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_scores_are_written_over_only_on_request(command: Command, tmp_path: Path) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "effects.csv").write_text("mine")
    (tmp_path / "mine.parquet").touch()
    assert "an earlier result" in refused(command("score", "set", "mine.parquet", "--output", "tables"))
    (tmp_path / "tables" / "thesis.txt").write_text("years of work")
    message = refused(command("score", "set", "mine.parquet", "--output", "tables", "--overwrite"))
    assert "other files" in message
    assert "thesis.txt" in message


def test_a_figure_is_kept_unless_it_is_to_be_overwritten(command: Command, tmp_path: Path) -> None:
    write_dataset(open_root(str(tmp_path / "set")))
    show = ("show", "set", "--subject", "3", "--png", "three.png")
    status, printed, _ = command(*show)
    assert status == 0
    assert printed.rstrip().endswith("figure: three.png")
    figure = (tmp_path / "three.png").read_bytes()
    assert command(*show)[0] == 0  # the same figure
    (tmp_path / "three.png").write_text("mine")
    assert "exists already" in refused(command(*show))
    assert (tmp_path / "three.png").read_text() == "mine"
    assert command(*show, "--overwrite")[0] == 0
    assert (tmp_path / "three.png").read_bytes() == figure


def test_a_review_needs_scans(command: Command) -> None:
    assert "--review shows scans; expected SCANS; got phantom images" in refused(command("ingest", "--review"))
