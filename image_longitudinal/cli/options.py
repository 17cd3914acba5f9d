"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer

from image_longitudinal.core.presets import preset_names
from image_longitudinal.core.secrets import hidden

Preset = Annotated[str, typer.Option(help=f"Configuration to start from: {', '.join(preset_names())}.")]
File = Annotated[Path | None, typer.Option("--config", help="YAML file with values over the preset's.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. dataset.n_subjects=2000.")]


def _hidden(address: str | None) -> str | None:
    return None if address is None else hidden(address)


HIDDEN: dict[str, Any] = {"callback": _hidden}  # of options for addresses: what is printed and stored has no password
Images = Annotated[
    str | None, typer.Option(help="Folder, archive or URL of scans to train on; phantoms without one.", **HIDDEN)
]
WorkspaceOption = Annotated[
    str, typer.Option(envvar="IMAGE_LONGITUDINAL_WORKSPACE", help="Prepared images and models.")
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Recompute everything, cached or not.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
DatasetArgument = Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.", **HIDDEN)]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="Code that the data set names and you trust: a model file, or package.module:factory."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads; the result does not depend on their number.")]
