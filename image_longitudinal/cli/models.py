"""Commands ``image-longitudinal models ...``: list, show, promote, measure, export and import registered models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.commands import add_command
from image_longitudinal.cli.console import aligned, command_line, note, print_result, show
from image_longitudinal.cli.options import (
    Accept,
    File,
    Images,
    ModelArgument,
    Overrides,
    Preset,
    WorkspaceOption,
    accepted,
    address,
    read_settings,
)
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.core.errors import Problems, naming_missing_extra
from image_longitudinal.core.gates import accepted_kinds, gate_rows

if TYPE_CHECKING:  # imports torch
    from image_longitudinal.models.registry.registry import Registry

app = typer.Typer(help="List, show, promote, measure, export and import registered models.", no_args_is_help=True)

Shared = Annotated[
    str | None,
    typer.Option("--registry", envvar="IMAGE_LONGITUDINAL_REGISTRY", help="Shared registry: an fsspec URL."),
]


def list_models_command(workspace: WorkspaceOption = "workspace", registry: Shared = None) -> None:
    """List the versions, with their aliases and metrics."""
    from image_longitudinal.cli.describe import describe_models, model_data

    found = _registry(workspace, registry)
    show(describe_models(found), models=model_data(found))


def show_model_command(name: ModelArgument, workspace: WorkspaceOption = "workspace", registry: Shared = None) -> None:
    """Print a version's model card and metrics."""
    version = _registry(workspace, registry).get(name)
    lines = [version.card, f"version {version.digest}", f"files   {', '.join(sorted(version.files))}"]
    lines += [f"gate    {one}" for one in version.gates]
    show(
        "\n".join(lines), version=version.digest, files=version.files, metadata=version.metadata,
        gates=gate_rows(version.gates),
    )  # fmt: skip


def promote_model_command(
    name: ModelArgument = "candidate",
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric that must be no worse than production's; may be repeated.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative worsening that is accepted.")] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Promote without gates and comparison.")] = False,
    accept: Accept = None,
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Point the alias `production` to a version if its gates are open and it is no worse than the current one.

    Otherwise the exit status is 4.
    """
    from image_longitudinal.models.registry import promotion

    models = _registry(workspace, registry)
    compared = promotion.promote(
        models, name, metric or promotion.GATE, tolerance=tolerance, force=force, accept=accepted_kinds(accept)
    )
    current = models.aliases()["production"]
    show("\n".join([*map(str, compared), f"production is {current}"]), production=current, comparisons=compared)
    words = ("generate", "--model", "production", "--output", "DIR")
    print_result(models.get(current).folder, command_line(*words, workspace=workspace))


def measure_model_command(
    name: ModelArgument = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    judge: Annotated[
        str,
        typer.Option(help="Network that judges images: vgg16, a transformers folder, or VGG16 in a safetensors file."),
    ] = "vgg16",
) -> None:
    """Measure a version beside held-out scans, and print every figure with its interval.

    The preset's probe samples the images; the same networks are registered with the new figures.
    """
    problems = Problems()
    settings = read_settings(problems, preset, config, overrides)
    with naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_measurement

        foresee_measurement(problems, settings, name, images, workspace)
    settings = accepted(problems, settings)
    with starting_prefect():
        from image_longitudinal.flows.remeasure_model import measure_model
    from image_longitudinal.tasks.reports.model_table import model_report, model_table

    version = measure_model(name, images, config=settings, workspace=workspace, judge=judge)
    report = model_report(version, settings)
    lines = [aligned(model_table(report)), *(f"gate    {one}" for one in version.gates)]
    show("\n".join(lines), model=version.version, report=report, gates=gate_rows(version.gates))
    print_result(version.folder, command_line("models", "show", version.version, workspace=workspace))


def export_model_command(
    name: ModelArgument,
    target: Annotated[str, typer.Argument(help="Folder or fsspec URL.", parser=address, metavar="PATH|URL")],
    layout: Annotated[str, typer.Option(help="version (for import) or diffusers (for from_pretrained).")] = "version",
    scans_licence: Annotated[
        str | None,
        typer.Option(help="Include pictures of real scans, under this licence; without it they are left out."),
    ] = None,
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Export a version, without its pictures of real scans; a folder that holds a model is left alone."""
    version = _registry(workspace, registry).get(name)  # before torch is imported
    from image_longitudinal.models.registry.exchange import export_model
    from image_longitudinal.storage.io.open import open_root

    files = export_model(version, open_root(target), layout, scans_licence=scans_licence)
    left_out = [] if scans_licence else version.private_files
    show("\n".join(files), files=files, left_out=left_out)
    if left_out:
        note(f"left out, as they show real scans: {', '.join(left_out)} (--scans-licence includes them)")
    print_result(target, command_line("models", "import", target) if layout == "version" else None)


def import_model_command(
    source: Annotated[
        str,
        typer.Argument(help="An exported version: a folder or an fsspec URL.", parser=address, metavar="PATH|URL"),
    ],
    alias: Annotated[str, typer.Option(help="Alias to set.")] = "candidate",
    workspace: WorkspaceOption = "workspace",
    registry: Shared = None,
) -> None:
    """Register an exported version."""
    from image_longitudinal.storage.io.open import open_root

    models = _registry(workspace, registry)
    version = models.add(open_root(source))
    models.set_alias(alias, version.version)
    show(f"model {version.version}, alias {alias}", model=version.version, alias=alias)
    words = ("generate", "--model", version.version, "--output", "DIR")
    print_result(version.folder, command_line(*words, workspace=workspace))


def _registry(workspace: str, shared: str | None) -> Registry:
    from image_longitudinal.tasks.workspace import Workspace

    return Workspace.at(workspace).registry_at(shared)


for _name, _function, _examples in (
    ("list", list_models_command, ("list", "list --registry s3://bucket/models")),
    ("show", show_model_command, ("show production", "show production --json")),
    ("promote", promote_model_command, ("promote candidate", "promote candidate --metric fd --tolerance 0.02")),
    ("measure", measure_model_command, ("measure production --images scans/ --preset scans", "measure candidate")),
    ("export", export_model_command,
     ("export production exported", "export production for-diffusers --layout diffusers")),
    ("import", import_model_command, ("import exported", "import s3://bucket/exported --alias candidate")),
):  # fmt: skip
    add_command(
        app, _function, *(f"image-longitudinal models {words}" for words in _examples), group="models", name=_name
    )
