"""The commands ``publish`` and ``fetch``: a published data set, or a part of it, from one store to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from image_longitudinal.cli.console import done, say
from image_longitudinal.core.plan import parse_shard_ranges
from image_longitudinal.core.progress import Pace, Throttle
from image_longitudinal.core.units import duration, human_bytes

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.transfer import (
        Copied,
    )  # imports Zarr and pyarrow, which other commands may not need

Workers = Annotated[int, typer.Option(min=1, help="Shards copied at a time.")]
SECONDS = 2.0  # between two lines of progress


def publish(
    source: Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="URL", help="Where to: a folder, s3://, gs://, hf://datasets/...")],
    workers: Workers = 4,
) -> None:
    """Copy a published data set to another store; what is there already is kept."""
    _copy(source, target, workers)


def fetch(
    source: Annotated[str, typer.Argument(metavar="URL", help="The data set: a folder or an fsspec URL.")],
    target: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to: a folder or an fsspec URL.")],
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be given several times.")] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="Only this association level; may be given several times.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards, such as 0-9,12.")] = None,
    workers: Workers = 4,
) -> None:
    """Bring a data set here, or a part of it that is a data set in itself."""
    chosen = parse_shard_ranges(shards) if shards else None
    _copy(source, target, workers, splits=tuple(split or ()) or None, levels=tuple(level or ()) or None, shards=chosen)


def _copy(source: str, target: str, workers: int, **selected: Any) -> None:
    from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
    from image_longitudinal.storage.io.filesystem import open_root

    say(f"copy {source} to {target}")
    selection, progress = Selection(**selected), CopyProgress()
    manifest = copy_dataset(open_root(source), open_root(target), selection, workers=workers, progress=progress)
    of = f", part of {manifest.part_of.n_subjects:,}" if manifest.part_of else ""
    say(f"{manifest.n_subjects:,} subjects{of}, every file checked against its SHA-256 on the way")
    done(target, f"image-longitudinal show {target}")


class CopyProgress:
    """Prints the progress of a copy, with rate and time left, every few seconds and at the end."""

    def __init__(self) -> None:
        self._pace = Pace(0)
        self._throttle = Throttle(SECONDS)

    def __call__(self, copied: Copied) -> None:
        """Called after each shard."""
        if not self._throttle.ready(always=copied.shards >= copied.of):
            return
        self._pace.total, self._pace.first = copied.of, copied.kept  # what was present does not count for the rate
        left = self._pace.seconds_left(copied.shards)
        say(
            f"{copied.shards:,} of {copied.of:,} shards, {human_bytes(copied.bytes)} copied, "
            f"{human_bytes(copied.bytes / self._pace.elapsed)}/s"
            + (f", {copied.kept:,} were present" if copied.kept else "")
            + (f", about {duration(left)} left" if 1 <= left < float("inf") else "")
        )
