"""Commands that look at a published data set: ``show`` and ``verify``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import command_line, note, print_result, show
from image_longitudinal.cli.options import DatasetArgument, Overwrite, Trust, WorkspaceOption, check_published
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.core.outputs import check_new_file, expanded
from image_longitudinal.tasks.engine.prefect_setup import run_or_call

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.verify import VerificationReport


def show_command(
    dataset: DatasetArgument,
    subject: Annotated[int | None, typer.Option(min=0, help="Plot this subject, and print its numbers.")] = None,
    png: Annotated[
        str | None,
        typer.Option(help="File for the figure (default: NAME-subject-N.png here).", parser=expanded, metavar="FILE"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe a data set, or plot one of its subjects."""
    from image_longitudinal.cli.describe import describe_dataset, describe_subject, subject_data
    from image_longitudinal.storage.dataset.reader import open_dataset

    opened = open_dataset(dataset)
    if subject is None:
        show(describe_dataset(opened), dataset=opened.root.url, manifest=opened.manifest)
        return
    path = Path(png or f"{opened.manifest.name}-subject-{subject}.png")
    show(describe_subject(opened, subject), subject=subject_data(opened, subject))
    from image_longitudinal.tasks.reports.dataset_figures import subject_figure
    from image_longitudinal.tasks.reports.pictures import rendered

    figure = rendered(subject_figure(opened, subject))
    if not (path.is_file() and path.read_bytes() == figure):  # the same figure is no loss
        check_new_file(path, overwrite)
        try:
            write_atomically(path, figure)
        except OSError as error:
            do = "name another file with --png"
            raise StorageError("cannot write the figure", where=path, got=error, do=do) from error
    print_result(path, label="figure")


def verify_command(
    dataset: DatasetArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Generate exactly the bad shards again.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Shards checked at a time.")] = 2,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Subjects generated again and compared; 8, or 0 without the pipeline.")
    ] = None,
    workspace: WorkspaceOption = "workspace",
    trust: Trust = None,
) -> None:
    """Re-hash and re-read a published data set, generate some subjects again, and name what is wrong (status 3)."""
    from image_longitudinal.storage.dataset.verify import FaultsFoundError

    if sample is None:
        sample = 8 if find_spec("prefect") else 0
    check_published(dataset)
    note(f"verify {dataset}")
    try:
        report = _verified(dataset, repair, workers, sample, workspace, tuple(trust or ()))
    except FaultsFoundError as error:
        if error.report:
            show(str(error.report), report=error.report)
        raise
    show(str(report), report=report)
    print_result(dataset, command_line("show", dataset))


def _verified(
    dataset: str, repair: bool, workers: int, sample: int, workspace: str, trust: tuple[str, ...]
) -> VerificationReport:
    if sample or repair:
        with starting_prefect(server=repair):
            from image_longitudinal.flows.verify_dataset import verify as verify_flow
        return run_or_call(
            verify_flow, dataset, repair=repair, workers=workers, workspace=workspace, sample=sample, trust=trust
        )
    from image_longitudinal.core.progress import Counter
    from image_longitudinal.storage.dataset.verify import verify_dataset
    from image_longitudinal.storage.io.open import open_root

    counters: list[Counter] = []

    def progress(done: int, total: int) -> None:
        counters.extend([] if counters else [Counter("verify", total, "shards")])
        counters[0].update(done)

    report = verify_dataset(open_root(dataset), workers=workers, progress=progress)
    report.require_ok()
    return report
