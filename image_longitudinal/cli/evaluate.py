"""The commands ``evaluate`` and ``score``."""

from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import aligned, print_result
from image_longitudinal.cli.options import DatasetArgument, File, Overrides, Preset, Threads, Trust, WorkspaceOption
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.presets import load_config


def evaluate(
    dataset: DatasetArgument,
    output: Annotated[str | None, typer.Option(help="Folder for tables, figures and report.")] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    workers: Threads = 2,
    verify: Annotated[bool, typer.Option(help="Verify every byte of the data set first.")] = True,
    trust: Trust = None,
) -> None:
    """Measure how well images predict outcomes, compared with the design; write tables, figures and a report."""
    settings = load_config(preset, config, overrides or ())
    chosen = settings.evaluation
    typer.echo(f"evaluate {dataset}: {chosen.population} population, {chosen.bootstrap} resamples")
    with starting_prefect():
        from image_longitudinal.flows.evaluate_dataset import evaluate_dataset
    from image_longitudinal.tasks.evaluation.report import PAGE
    from image_longitudinal.tasks.evaluation.tables import headline_table

    result = evaluate_dataset(
        dataset, output, config=settings, workspace=workspace, workers=workers, verify=verify, trust=tuple(trust or ())
    )
    evaluation, table = result.evaluation, headline_table(result.evaluation.levels)
    typer.echo(aligned([table.columns, *table.rows]))
    if any("–" in row for row in table.rows):
        typer.echo("–: with so few test subjects, the ceiling of that level does not differ clearly from 0")
    n, failed = len(evaluation.checks), evaluation.failed
    typer.echo(f"design against truth: {n - len(failed)} of {n} checks pass")
    for check in failed:
        typer.echo(f"  FAIL {check.group}: {check.name}, found {check.value:.4g}, expected {check.expected:g}")
    typer.echo(f"report: {result.folder / PAGE}")
    example = f"{result.folder}/predictions/informed-{evaluation.levels[0].level:g}.parquet"
    print_result(result.folder, f"image-longitudinal score {dataset} {example}")


def score(
    dataset: DatasetArgument,
    predictions: Annotated[Path, typer.Argument(help="Parquet file; docs/scoring.md describes its columns.")],
    baselines: Annotated[Path | None, typer.Option(help="Folder predictions/ of an evaluation, scored too.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the tables as markdown, LaTeX and CSV.")] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 1000,
    workers: Threads = 2,
) -> None:
    """Score predictions of random effects or outcomes for the test subjects."""
    from image_longitudinal.api import score as score_predictions

    typer.echo(f"score {predictions} on the test subjects of {dataset}{f', beside {baselines}' if baselines else ''}")
    for table in score_predictions(dataset, predictions, baselines, bootstrap=bootstrap, workers=workers):
        typer.echo(f"\n{table.title}\n{aligned([table.columns, *table.rows], left=2)}")
        if output is not None:
            table.write(output)
    print_result(output or predictions, f"image-longitudinal show {dataset}")
