"""The commands ``evaluate`` and ``score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import File, Overrides, Preset, Workspace, done, prepare_prefect, say
from image_longitudinal.core.presets import load_config

DatasetArgument = Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")]


def evaluate(
    dataset: DatasetArgument,
    output: Annotated[str | None, typer.Option(help="Folder for tables, figures and report.")] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: Workspace = "workspace",
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    verify: Annotated[bool, typer.Option(help="Verify every byte of the data set first.")] = True,
) -> None:
    """Measure what a data set's images say about its outcomes, against its design; tables, figures, report."""
    settings = load_config(preset, config, overrides or ())
    say(f"evaluate {dataset}: {settings.evaluation.population} population, {settings.evaluation.bootstrap} resamples")
    prepare_prefect("image_longitudinal.flows.evaluate_dataset")
    from image_longitudinal.flows.evaluate_dataset import evaluate_dataset
    from image_longitudinal.tasks.evaluation.report import PAGE
    from image_longitudinal.tasks.evaluation.tables import headline_table

    result = evaluate_dataset(dataset, output, config=settings, workspace=workspace, workers=workers, verify=verify)
    evaluation, table = result.evaluation, headline_table(result.evaluation.levels)
    say(aligned([table.columns, *table.rows]))
    if any("–" in row for row in table.rows):
        say("–: with so few test subjects, the ceiling of that level does not differ clearly from 0")
    n, failed = len(evaluation.checks), evaluation.failed
    say(f"design against truth: {n - len(failed)} of {n} checks pass")
    for check in failed:
        say(f"  FAIL {check.group}: {check.name}, found {check.value:.4g}, expected {check.expected:g}")
    say(f"report: {result.folder / PAGE}")
    example = f"{result.folder}/predictions/informed-{evaluation.levels[0].level:g}.parquet"
    done(result.folder, f"image-longitudinal score {dataset} {example}")


def score(
    dataset: DatasetArgument,
    predictions: Annotated[Path, typer.Argument(help="Parquet file; docs/scoring.md says what it holds.")],
    baselines: Annotated[
        Path | None, typer.Option(help="Folder predictions/ of an evaluation, to score its predictors beside.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the tables as markdown, LaTeX and CSV.")] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 1000,
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
) -> None:
    """Score anyone's predictions of random effects or outcomes for the held-out subjects."""
    from image_longitudinal.storage.dataset.reader import open_dataset
    from image_longitudinal.tasks.evaluation.run import default_output
    from image_longitudinal.tasks.evaluation.submissions import score_predictions

    opened = open_dataset(dataset)
    usual = default_output(opened.manifest) / "predictions"
    beside = baselines or (usual if usual.is_dir() else None)
    say(f"score {predictions} on the test subjects of {dataset}{f', beside {beside}' if beside else ''}")
    made = score_predictions(opened, predictions, beside, replicates=bootstrap, workers=workers)
    for table in made:
        say(f"\n{table.title}\n{aligned([table.columns, *table.rows], left=2)}")
    if output is not None:
        for table in made:
            table.write(output)
    done(output or predictions, f"image-longitudinal show {dataset}")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text in columns, the first ``left`` of them aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{'<' if place < left else '>'}{width}}" for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)
