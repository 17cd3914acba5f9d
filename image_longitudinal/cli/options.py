"""Options and arguments that several commands have."""

from typing import Annotated

import typer

from image_longitudinal.cli.completion import complete_keys, complete_models, complete_presets
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import Problems
from image_longitudinal.core.gates import KINDS, accepted_kinds
from image_longitudinal.core.outputs import expanded
from image_longitudinal.core.presets import load_config, preset_names
from image_longitudinal.core.secrets import hidden


def address(place: str) -> str:
    """A path or URL as :func:`core.outputs.expanded` gives it; what is printed and stored of it has no password."""
    return hidden(expanded(place))


_PLACE = {"parser": address, "metavar": "PATH|URL"}
_FILE = {"parser": expanded, "metavar": "FILE"}
_FOLDER = {"parser": expanded, "metavar": "FOLDER"}

Preset = Annotated[
    str,
    typer.Option(
        help=f"Configuration to start from: {', '.join(preset_names())}.", autocompletion=complete_presets,
        metavar="NAME",
    ),
]  # fmt: skip
File = Annotated[str | None, typer.Option("--config", help="YAML file with values over the preset's.", **_FILE)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override, e.g. dataset.n_subjects=2000; `config list` shows all.", metavar="KEY=VALUE",
        autocompletion=complete_keys,
    ),
]  # fmt: skip
Images = Annotated[
    str | None, typer.Option(help="Folder, archive or URL of scans to train on; phantoms without one.", **_PLACE)
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Registered model, or `pretrained`, to use instead of training one.", metavar="NAME",
        autocompletion=complete_models,
    ),
]  # fmt: skip
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Version, its first six digits or more, or an alias.", metavar="MODEL", autocompletion=complete_models
    ),
]
WorkspaceOption = Annotated[
    str, typer.Option(envvar="IMAGE_LONGITUDINAL_WORKSPACE", help="Prepared images and models.", **_FOLDER)
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Recompute everything, cached or not.")]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Go on although this gate fails ({', '.join(KINDS)}), which stays on record; may be repeated.",
        parser=lambda name: accepted_kinds([name])[0], metavar="KIND",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a result that exists.")]
DatasetArgument = Annotated[str, typer.Argument(help="The data set: a folder or an fsspec URL.", **_PLACE)]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="Code that the data set names and you trust: a model file, or package.module:factory."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads; the result does not depend on their number.")]
OutputPlace = Annotated[
    str, typer.Option("--output", help="Where to write the data set: a folder or an fsspec URL.", **_PLACE)
]


def read_settings(problems: Problems, preset: str, file: str | None, overrides: list[str] | None) -> Config | None:
    """The configuration that the options choose, or None with the reason among the problems."""
    with problems.noting():
        return load_config(preset, file, overrides or ())
    return None


def accepted(problems: Problems, settings: Config | None) -> Config:
    """The configuration, if nothing was found that the run would refuse.

    Raises:
        ImageLongitudinalError: what was found.
    """
    problems.require_none()
    assert settings is not None
    return settings


def check_published(dataset: str) -> None:
    """Check that a data set is there, before anything is imported that takes seconds.

    Raises:
        StorageError: none is published at that address.
    """
    from image_longitudinal.storage.dataset.manifest import require_published
    from image_longitudinal.storage.io.open import open_root

    require_published(open_root(dataset))
