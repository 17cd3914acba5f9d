"""The commands ``evaluate``, ``score`` and ``study``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import aligned, command_line, note, print_result, show
from image_longitudinal.cli.options import (
    DatasetArgument,
    File,
    Overrides,
    Overwrite,
    Preset,
    Threads,
    Trust,
    WorkspaceOption,
    accepted,
    check_published,
    read_settings,
)
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import Problems, StorageError, naming_missing_extra
from image_longitudinal.core.outputs import check_new_folder, expanded, new_folder
from image_longitudinal.tasks.engine.prefect_setup import configure_prefect

if TYPE_CHECKING:  # the pipeline, which readers do not have
    from image_longitudinal.tasks.evaluation.tables import Table


def evaluate_command(
    dataset: DatasetArgument,
    output: Annotated[
        str | None, typer.Option(help="Folder for tables, figures and report.", parser=expanded, metavar="FOLDER")
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    workers: Threads = 2,
    verify: Annotated[bool, typer.Option(help="Verify every byte of the data set first.")] = True,
    overwrite: Overwrite = False,
    trust: Trust = None,
) -> None:
    """Measure how well images predict outcomes, compared with the design; write tables, figures and a report."""
    problems = Problems()
    settings = read_settings(problems, preset, config, overrides)
    configure_prefect()
    with naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_evaluation

        foresee_evaluation(problems, settings, dataset, output, workspace, overwrite, tuple(trust or ()))
    settings = accepted(problems, settings)
    chosen = settings.evaluation
    note(f"evaluate {dataset}: {chosen.population} population, {chosen.bootstrap} resamples")
    with starting_prefect():
        from image_longitudinal.flows.evaluate_dataset import evaluate_dataset
    from image_longitudinal.tasks.evaluation.report import PAGE
    from image_longitudinal.tasks.evaluation.tables import headline_table

    result = evaluate_dataset(
        dataset, output, config=settings, workspace=workspace, workers=workers, verify=verify, overwrite=overwrite,
        trust=tuple(trust or ()),
    )  # fmt: skip
    evaluation, table = result.evaluation, headline_table(result.evaluation.levels)
    show(aligned([table.columns, *table.rows]), evaluation=evaluation)
    if any("–" in row for row in table.rows):
        note("–: with so few test subjects, the ceiling of that level does not differ clearly from 0")
    n, failed = len(evaluation.checks), evaluation.failed
    note(f"design against truth: {n - len(failed)} of {n} checks pass")
    for check in failed:
        note(f"  FAIL {check.group}: {check.name}, found {check.value:.4g}, expected {check.expected:g}")
    note(f"report: {result.folder / PAGE}")
    example = f"{result.folder}/predictions/informed-{evaluation.levels[0].level:g}.parquet"
    print_result(result.folder, command_line("score", dataset, example))


def score_command(
    dataset: DatasetArgument,
    predictions: Annotated[
        str,
        typer.Argument(
            help="Parquet file; docs/howto/scoring.md describes its columns.", parser=expanded, metavar="PREDICTIONS"
        ),
    ],
    baselines: Annotated[
        str | None,
        typer.Option(help="Folder predictions/ of an evaluation, scored too.", parser=expanded, metavar="FOLDER"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Folder for the tables as markdown, LaTeX and CSV.", parser=expanded, metavar="FOLDER"),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 1000,
    workers: Threads = 2,
    overwrite: Overwrite = False,
) -> None:
    """Score predictions of random effects, outcomes, individual effects or policies for the test subjects."""
    problems = Problems()
    with problems.noting():
        check_published(dataset)
    with problems.noting():
        if not Path(predictions).is_file():
            raise StorageError("no such file of predictions", where=predictions, expected="a Parquet file")
    with problems.noting():
        if baselines is not None and not Path(baselines).is_dir():
            expected = "the folder predictions/ of an evaluation"
            raise StorageError("no such folder of predictions", where=baselines, expected=expected)
    problems.require_none()
    from image_longitudinal.api import score
    from image_longitudinal.tasks.evaluation.submissions import TABLES
    from image_longitudinal.tasks.evaluation.tables import file_names

    names = [file for table in TABLES for file in file_names(table)]
    if output is not None:
        check_new_folder(Path(output), names, overwrite)
    note(f"score {predictions} on the test subjects of {dataset}{f', beside {baselines}' if baselines else ''}")
    tables = score(dataset, predictions, baselines, bootstrap=bootstrap, workers=workers)
    _show_tables(tables, 2, output, names, overwrite)
    print_result(output or predictions, command_line("show", dataset))


def study_command(
    dataset: DatasetArgument,
    output: Annotated[
        str | None,
        typer.Option(help="Folder for the tables as markdown, LaTeX and CSV.", parser=expanded, metavar="FOLDER"),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 1000,
    overwrite: Overwrite = False,
) -> None:
    """Estimate what a study design holds, beside the truth: mean effects, individual effects from images, sites."""
    check_published(dataset)
    from image_longitudinal.api import evaluate_study
    from image_longitudinal.tasks.evaluation.study import TABLES
    from image_longitudinal.tasks.evaluation.tables import file_names

    names = [file for table in TABLES for file in file_names(table)]
    if output is not None:
        check_new_folder(Path(output), names, overwrite)
    note(f"estimate the study of {dataset}: {bootstrap} resamples")
    tables = evaluate_study(dataset, bootstrap=bootstrap)
    _show_tables(tables, 3, output, names, overwrite)
    print_result(output or dataset, command_line("show", dataset))


def _show_tables(tables: Sequence[Table], left: int, output: str | None, names: Sequence[str], overwrite: bool) -> None:
    """Print tables, their first ``left`` columns aligned to the left, and write them into a folder if one is named."""
    texts = (f"\n{table.title}\n{aligned([table.columns, *table.rows], left=left)}" for table in tables)
    show("\n".join(texts), tables={table.name: table.records for table in tables})
    if output is not None:
        with new_folder(Path(output), names, overwrite) as folder:
            for table in tables:
                table.write(folder)
