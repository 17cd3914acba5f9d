"""Commands that look at a published data set: ``show`` and ``verify``."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import DatasetArgument, Trust, WorkspaceOption
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import StorageError


def show(
    dataset: DatasetArgument,
    subject: Annotated[int | None, typer.Option(min=0, help="Plot this subject, and print its numbers.")] = None,
    png: Annotated[Path | None, typer.Option(help="File for the figure (default: NAME-subject-N.png here).")] = None,
) -> None:
    """Describe a data set, or plot one of its subjects."""
    from image_longitudinal.cli.describe import describe_dataset, describe_subject
    from image_longitudinal.storage.dataset.reader import open_dataset

    opened = open_dataset(dataset)
    if subject is None:
        typer.echo(describe_dataset(opened))
        return
    typer.echo(describe_subject(opened, subject))
    from image_longitudinal.tasks.reports.dataset_figures import subject_figure

    path = png or Path(f"{opened.manifest.name}-subject-{subject}.png")
    try:
        path.write_bytes(subject_figure(opened, subject))
    except OSError as error:
        do = "name another file with --png"
        raise StorageError("cannot write the figure", where=path, got=error, do=do) from error
    typer.echo(f"\nfigure: {path}")


def verify(
    dataset: DatasetArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Generate exactly the bad shards again.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Shards checked at a time.")] = 2,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Subjects generated again and compared; 8, or 0 without the pipeline.")
    ] = None,
    workspace: WorkspaceOption = "workspace",
    trust: Trust = None,
) -> None:
    """Re-hash and re-read a published data set, generate some subjects again, and name what is wrong."""
    if sample is None:
        sample = 8 if find_spec("prefect") else 0
    if sample or repair:
        with starting_prefect():
            from image_longitudinal.flows.verify_dataset import verify as verify_flow
        report = verify_flow(
            dataset, repair=repair, workers=workers, workspace=workspace, sample=sample, trust=tuple(trust or ())
        )
    else:
        from image_longitudinal.storage.dataset.verify import verify_dataset
        from image_longitudinal.storage.io.open import open_root

        report = verify_dataset(open_root(dataset), workers=workers)
        if not report.ok:
            raise StorageError(f"{len(report.problems)} problems found; the first: {report.problems[0]}", where=dataset)
    typer.echo(str(report))
    print_result(dataset, f"image-longitudinal show {dataset}")
