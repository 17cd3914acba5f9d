"""Command ``export``: a data set as a table of NM-TRAN, or in the form that other tools expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from image_longitudinal.cli.console import note, print_result, show
from image_longitudinal.cli.options import DatasetArgument, Overwrite, address
from image_longitudinal.cli.population import DialectOption
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.progress import Counter, human_bytes

if TYPE_CHECKING:  # imports pyarrow, which other commands do not need
    from image_longitudinal.tasks.exports.export import Exported

HOMES = "huggingface, webdataset, imagefolder, nifti, nmtran or bids"  # those of tasks.exports.homes
T = TypeVar("T")


def export_command(
    dataset: DatasetArgument,
    target: Annotated[
        str,
        typer.Argument(
            help="CSV or Parquet file to write; with --to, a folder or URL.", parser=address, metavar="FILE|FOLDER"
        ),
    ],
    to: Annotated[
        str | None, typer.Option(help=f"{HOMES}; without it, one table in NM-TRAN's columns.", metavar="HOME")
    ] = None,
    level: Annotated[
        list[float] | None,
        typer.Option(help="Association level; with --to, all without one, and several may be given."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; with --to, several may be given.")] = None,
    dialect: DialectOption = "nonmem",
    workers: Annotated[int, typer.Option(min=1, help="Shards written at a time, with --to.")] = 2,
    overwrite: Overwrite = False,
) -> None:
    """Write outcomes for NONMEM, nlmixr2, Monolix or Pumas; with --to, images and outcomes for other tools."""
    from image_longitudinal.storage.dataset.reader import open_dataset

    opened = open_dataset(dataset)
    if to is None:
        from image_longitudinal.models.nlme.data import nmtran_writer
        from image_longitudinal.tasks.population.export import export_nmtran

        one = _single(level, "level", f"--level, one of {', '.join(map(str, opened.levels))}")
        part = _single(split, "split", "--split once, or not at all") if split else None
        chosen = cast(nmtran_writer.Dialect, dialect)  # checked by the writer
        rows = export_nmtran(opened, target, level=one, split=part, dialect=chosen, overwrite=overwrite)
        show(f"{rows:,} rows", rows=rows)
        print_result(target)
        return
    from image_longitudinal.storage.io.open import open_root
    from image_longitudinal.tasks.exports.homes import export_dataset, find_home

    counters: list[Counter] = []

    def progress(done: Exported) -> None:
        """Subjects that were there already do not count for the rate."""
        counters.extend([] if counters else [Counter("export", done.of, "subjects", done.kept)])
        counters[0].pace.first = done.kept
        kept = f", {done.kept:,} were already there" if done.kept else ""
        counters[0].update(done.subjects, f"{human_bytes(done.bytes)} written{kept}")

    home = find_home(to)
    note(f"export {dataset} to {target} for {home.name}")
    done = export_dataset(
        opened, open_root(target), to, splits=split, levels=level, workers=workers, overwrite=overwrite,
        progress=progress,
    )  # fmt: skip
    show(f"{done.of:,} subjects, {done.kept:,} of them were already there", subjects=done.of, kept=done.kept)
    print_result(target, home.next.replace("{}", target))


def _single(given: Sequence[T] | None, what: str, expected: str) -> T:
    """The one value that a table without --to takes."""
    if len(given or ()) != 1:
        raise ConfigError(
            f"a table is of one {what}", expected=expected, got=", ".join(map(str, given or ())) or "none"
        )
    assert given is not None
    return given[0]
