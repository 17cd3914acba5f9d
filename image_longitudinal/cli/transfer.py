"""Commands ``publish``, ``fetch`` and ``convert``: copy a published data set, or a part of it, to another place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import command_line, note, print_result, show
from image_longitudinal.cli.options import address
from image_longitudinal.core.plan import parse_shard_ranges
from image_longitudinal.core.progress import Counter, human_bytes

if TYPE_CHECKING:  # imports pyarrow, which other commands do not need
    from image_longitudinal.storage.dataset.transfer import Copied, Selection

Source = Annotated[
    str, typer.Argument(help="The data set: a folder or an fsspec URL.", parser=address, metavar="PATH|URL")
]
Target = Annotated[str, typer.Argument(help="Where to: a folder or an fsspec URL.", parser=address, metavar="TARGET")]
CopyWorkers = Annotated[int, typer.Option("--workers", min=1, help="Shards copied at a time.")]


def publish_command(
    source: Source,
    target: Target,
    workers: CopyWorkers = 4,
) -> None:
    """Copy a published data set to another store; files that the target has already are kept."""
    from image_longitudinal.storage.dataset.transfer import Selection

    _copy(source, target, workers, Selection())


def fetch_command(
    source: Source,
    target: Target,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be given several times.")] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="Only this association level; may be given several times.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards, such as 0-9,12.")] = None,
    workers: CopyWorkers = 4,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Read the source without credentials: a public bucket.")
    ] = False,
) -> None:
    """Download a data set, or a part of it, which is a data set again."""
    from image_longitudinal.storage.dataset.transfer import Selection

    chosen = parse_shard_ranges(shards) if shards else None
    selection = Selection(tuple(split or ()) or None, tuple(level or ()) or None, chosen)
    _copy(source, target, workers, selection, anonymous)


def convert_command(
    source: Annotated[str, typer.Argument(metavar="OLD", help="The data set of layout version 1.", parser=address)],
    target: Annotated[str, typer.Argument(metavar="NEW", help="An empty folder or URL.", parser=address)],
) -> None:
    """Rewrite a data set of layout version 1 in version 2: the same images and numbers, nothing is generated."""
    from image_longitudinal.storage.dataset.transfer import convert_dataset
    from image_longitudinal.storage.io.open import open_root

    note(f"convert {source} to {target}")
    manifest = convert_dataset(open_root(source), open_root(target))
    shards = manifest.plan.n_shards
    show(
        f"{manifest.n_subjects:,} subjects in {shards:,} shards, verified", subjects=manifest.n_subjects, shards=shards
    )
    print_result(target, command_line("show", target))


def _copy(source: str, target: str, workers: int, selection: Selection, anonymous: bool = False) -> None:
    from image_longitudinal.storage.dataset.transfer import copy_dataset
    from image_longitudinal.storage.io.open import open_root
    from image_longitudinal.storage.io.schemes import anonymous_options

    counters: list[Counter] = []

    def progress(copied: Copied) -> None:
        """Shards that were there already do not count for the rate."""
        counters.extend([] if counters else [Counter("copy", copied.of, "shards", copied.kept)])
        counters[0].pace.first = copied.kept
        kept = f", {copied.kept:,} were already there" if copied.kept else ""
        counters[0].update(copied.shards, f"{human_bytes(copied.bytes)} copied{kept}")

    note(f"copy {source} to {target}")
    opened = open_root(source, anonymous_options(source) if anonymous else None)
    manifest = copy_dataset(opened, open_root(target), selection, workers=workers, progress=progress)
    of = f", part of {manifest.part_of.n_subjects:,}" if manifest.part_of else ""
    text = f"{manifest.n_subjects:,} subjects{of}, the SHA-256 of every file was checked"
    show(text, subjects=manifest.n_subjects, identity=manifest.identity)
    print_result(target, command_line("show", target))
