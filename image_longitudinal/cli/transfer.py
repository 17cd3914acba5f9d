"""Commands ``publish``, ``fetch`` and ``convert``: copy a published data set, or a part of it, to another place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import HIDDEN
from image_longitudinal.core.plan import parse_shard_ranges
from image_longitudinal.core.progress import Pace, Throttle, duration, human_bytes

if TYPE_CHECKING:  # imports pyarrow, which other commands do not need
    from image_longitudinal.storage.dataset.transfer import Copied, Selection

Source = Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.", **HIDDEN)]
CopyWorkers = Annotated[int, typer.Option("--workers", min=1, help="Shards copied at a time.")]
REPORT_SECONDS = 2.0  # between two lines of progress


def publish(
    source: Source,
    target: Annotated[
        str, typer.Argument(metavar="URL", help="Where to: a folder, s3://, gs://, hf://datasets/...", **HIDDEN)
    ],
    workers: CopyWorkers = 4,
) -> None:
    """Copy a published data set to another store; files that the target has already are kept."""
    from image_longitudinal.storage.dataset.transfer import Selection

    _copy(source, target, workers, Selection())


def fetch(
    source: Annotated[str, typer.Argument(metavar="URL", help="The data set: a folder or an fsspec URL.", **HIDDEN)],
    target: Annotated[str, typer.Argument(metavar="FOLDER", help="Target: a folder or an fsspec URL.", **HIDDEN)],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be given several times.")] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="Only this association level; may be given several times.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards, such as 0-9,12.")] = None,
    workers: CopyWorkers = 4,
) -> None:
    """Download a data set, or a part of it, which is a data set again."""
    from image_longitudinal.storage.dataset.transfer import Selection

    chosen = parse_shard_ranges(shards) if shards else None
    _copy(source, target, workers, Selection(tuple(split or ()) or None, tuple(level or ()) or None, chosen))


def convert(
    source: Annotated[str, typer.Argument(metavar="OLD", help="The data set of layout version 1.")],
    target: Annotated[str, typer.Argument(metavar="NEW", help="An empty folder or URL.")],
) -> None:
    """Rewrite a data set of layout version 1 in version 2: the same images and numbers, nothing is generated."""
    from image_longitudinal.storage.dataset.transfer import convert_dataset
    from image_longitudinal.storage.io.open import open_root

    typer.echo(f"convert {source} to {target}")
    manifest = convert_dataset(open_root(source), open_root(target))
    typer.echo(f"{manifest.n_subjects:,} subjects in {manifest.plan.n_shards:,} shards, verified")
    print_result(target, f"image-longitudinal show {target}")


def _copy(source: str, target: str, workers: int, selection: Selection) -> None:
    from image_longitudinal.storage.dataset.transfer import copy_dataset
    from image_longitudinal.storage.io.open import open_root

    pace, throttle = Pace(0), Throttle(REPORT_SECONDS)

    def report(copied: Copied) -> None:
        """Print the progress, with rate and time left, every few seconds and at the end."""
        if not throttle.ready(always=copied.shards >= copied.of):
            return
        pace.total, pace.first = copied.of, copied.kept  # shards already there do not count for the rate
        left = pace.seconds_left(copied.shards)
        typer.echo(
            f"{copied.shards:,} of {copied.of:,} shards, {human_bytes(copied.bytes)} copied, "
            f"{human_bytes(copied.bytes / pace.elapsed)}/s"
            + (f", {copied.kept:,} were already there" if copied.kept else "")
            + (f", about {duration(left)} left" if 1 <= left < float("inf") else "")
        )

    typer.echo(f"copy {source} to {target}")
    manifest = copy_dataset(open_root(source), open_root(target), selection, workers=workers, progress=report)
    of = f", part of {manifest.part_of.n_subjects:,}" if manifest.part_of else ""
    typer.echo(f"{manifest.n_subjects:,} subjects{of}, the SHA-256 of every file was checked")
    print_result(target, f"image-longitudinal show {target}")
