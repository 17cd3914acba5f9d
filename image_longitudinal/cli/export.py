"""The command ``export``: outcomes for programs that do not read Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import Dataset


def export(
    dataset: Dataset,
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    level: Annotated[float, typer.Option(help="Association level.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
) -> None:
    """Write outcomes as an NM-TRAN data file: ID, TIME, EVID, AMT, CMT, DV, MDV."""
    from image_longitudinal.storage.dataset.nmtran import export_nmtran
    from image_longitudinal.storage.dataset.reader import open_dataset

    rows = export_nmtran(open_dataset(dataset), file, level=level, split=split)
    typer.echo(f"{rows:,} rows")
    print_result(file)
