"""Commands ``publish`` and ``fetch``: copy a published data set, or a part of it, to another store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.core.plan import parse_shard_ranges
from image_longitudinal.core.units import duration, human_bytes

if TYPE_CHECKING:  # imports Zarr and pyarrow
    from image_longitudinal.storage.dataset.transfer import Copied

Workers = Annotated[int, typer.Option(min=1, help="Shards copied at a time.")]
SECONDS = 2.0  # between two lines of progress


def publish(
    source: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="URL", help="Target: a folder, s3://, gs://, hf://datasets/...")],
    workers: Workers = 4,
) -> None:
    """Copy a published data set to another store; shards already there are kept."""
    _copy(source, target, workers)


def fetch(
    source: Annotated[str, typer.Argument(metavar="URL", help="The data set: a folder or an fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="FOLDER", help="Target: a folder or an fsspec URL.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be given several times.")] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="Only this association level; may be given several times.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards, such as 0-9,12.")] = None,
    workers: Workers = 4,
) -> None:
    """Copy a data set, or a part of it, from a store; the part is a complete data set itself."""
    chosen = parse_shard_ranges(shards) if shards else None
    _copy(source, target, workers, splits=tuple(split or ()) or None, levels=tuple(level or ()) or None, shards=chosen)


def _copy(source: str, target: str, workers: int, **selected: Any) -> None:
    from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
    from image_longitudinal.storage.io.open import open_root

    typer.echo(f"copy {source} to {target}")
    selection, progress = Selection(**selected), Progress()
    manifest = copy_dataset(open_root(source), open_root(target), selection, workers=workers, progress=progress)
    of = f", part of {manifest.part_of.n_subjects:,}" if manifest.part_of else ""
    typer.echo(f"{manifest.n_subjects:,} subjects{of}, the SHA-256 of every file was checked")
    print_result(target, f"image-longitudinal show {target}")


class Progress:
    """Prints the shards copied, the rate and the remaining time, every few seconds and at the end."""

    def __init__(self) -> None:
        self.began = self.printed = time.monotonic()

    def __call__(self, copied: Copied) -> None:
        """Report the state after a shard."""
        now = time.monotonic()
        if copied.shards < copied.of and now - self.printed < SECONDS:
            return
        self.printed, seconds = now, max(now - self.began, 1e-6)
        transferred = copied.shards - copied.kept
        remaining = (copied.of - copied.shards) * seconds / transferred if transferred else 0.0
        typer.echo(
            f"{copied.shards:,} of {copied.of:,} shards, {human_bytes(copied.bytes)} copied, "
            f"{human_bytes(copied.bytes / seconds)}/s"
            + (f", {copied.kept:,} were already there" if copied.kept else "")
            + (f", about {duration(remaining)} left" if remaining >= 1 else "")
        )
