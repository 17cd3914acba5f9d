"""The command ``export``: outcomes for programs that do not read Parquet."""

from pathlib import Path
from typing import Annotated, cast

import typer

from image_longitudinal.cli.console import print_result
from image_longitudinal.cli.options import Dataset
from image_longitudinal.cli.population import Dialect


def export(
    dataset: Dataset,
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file to write.")],
    level: Annotated[float, typer.Option(help="Association level.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    dialect: Dialect = "nonmem",
) -> None:
    """Write outcomes as a data file of NONMEM, nlmixr2, Monolix or Pumas: ID, TIME, EVID, AMT, CMT, DV, MDV."""
    from image_longitudinal.models.nlme.data import nmtran_writer
    from image_longitudinal.storage.dataset.reader import open_dataset
    from image_longitudinal.tasks.population.export import export_nmtran

    chosen = cast(nmtran_writer.Dialect, dialect)  # checked by the writer
    rows = export_nmtran(open_dataset(dataset), file, level=level, split=split, dialect=chosen)
    typer.echo(f"{rows:,} rows")
    print_result(file)
