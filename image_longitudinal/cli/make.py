"""Commands that make something: ``ingest``, ``train``, ``distill`` and ``generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from image_longitudinal.cli.console import command_line, note, print_result, show
from image_longitudinal.cli.options import (
    Accept,
    DryRun,
    File,
    Images,
    Model,
    ModelArgument,
    OutputPlace,
    Overrides,
    Preset,
    Refresh,
    WorkspaceOption,
    accepted,
    address,
    read_settings,
)
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.cli.run_plan import describe_plan
from image_longitudinal.core.errors import ConfigError, Problems, naming_missing_extra
from image_longitudinal.core.gates import accepted_kinds, gate_rows

if TYPE_CHECKING:
    from image_longitudinal.core.config import Config
    from image_longitudinal.tasks.preflight import Found


def ingest_command(
    images: Annotated[
        str | None,
        typer.Argument(
            help="Folder, zip or tar file, or URL of scans; phantoms without one.", parser=address, metavar="SCANS"
        ),
    ] = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    review: Annotated[
        bool, typer.Option("--review", help="Draw refused, cured and some other scans, with the reasons: review.png.")
    ] = False,
) -> None:
    """Clean scans and bring them to one geometry, split by patient."""
    problems = Problems()
    settings = read_settings(problems, preset, config, overrides)
    if review and images is None:
        wrong = ConfigError("--review shows scans", expected="SCANS", got="phantom images", do="name a folder of scans")
        problems.found.append(wrong)
    with naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_ingest

        foresee_ingest(problems, settings, images, workspace)
    settings = accepted(problems, settings)
    note(f"ingest {images or 'phantom images'} into {workspace}")
    with starting_prefect():
        from image_longitudinal.flows.ingest_images import ingest_images
        from image_longitudinal.storage.scans.prepared import REVIEW
    prepared = ingest_images(images, config=settings, workspace=workspace, review=review)
    counts, duplicates = prepared.manifest.counts, len(prepared.manifest.near_duplicates)
    show(
        f"{counts.images} images of {counts.patients} patients, {counts.cured} of them cured, "
        f"{counts.set_aside} files set aside with reason, "
        f"{duplicates} near-duplicates across patients",
        counts=counts, near_duplicates=duplicates,
    )  # fmt: skip
    source = ["--images", images] if images else []
    if review:
        note(f"review: {prepared.folder / REVIEW}, with real scans: not for publication")
    given = given_config(preset, config, overrides)
    print_result(prepared.folder, command_line("train", *given, *source, workspace=workspace))


def train_command(
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    refresh: Refresh = False,
    accept: Accept = None,
    dry_run: DryRun = False,
) -> None:
    """Train and register the image models."""
    problems, found = Problems(), None
    settings = read_settings(problems, preset, config, overrides)
    with problems.noting(), naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_training

        found = foresee_training(problems, settings, images, workspace)
    settings = _agreed(problems, settings, found, dry_run, training=True, generation=False)
    if dry_run:
        return
    with starting_prefect():
        from image_longitudinal.flows.train_models import train_models
    version = train_models(images, config=settings, workspace=workspace, refresh=refresh, accept=accepted_kinds(accept))
    given = given_config(preset, config, overrides)
    words = ("generate", *given, "--model", version.version, "--output", "DIR")
    show(
        f"model {version.version}", model=version.version, metrics=version.metadata.metrics,
        gates=gate_rows(version.gates),
    )  # fmt: skip
    print_result(version.folder, command_line(*words, workspace=workspace))


def distill_command(
    model: ModelArgument = "production",
    images: Images = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
) -> None:
    """Train a few-step student of a model (and a light decoder), and measure what they lose."""
    problems = Problems()
    settings = read_settings(problems, preset, config, overrides)
    with naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_measurement

        foresee_measurement(problems, settings, model, images, workspace)
    settings = accepted(problems, settings)
    wanted = settings.distillation
    steps = f"student {wanted.student_steps:,} steps, light decoder {wanted.decoder_steps:,} steps"
    note(f"distill model {model}: {steps}")
    with starting_prefect():
        from image_longitudinal.flows.distill_model import distill_model
    version = distill_model(model, images, config=settings, workspace=workspace)
    distillation = version.metadata.distillation
    made = distillation.networks if distillation else ()
    chosen = ["--set", "generator.scheduler=student", "--set", f"generator.steps={wanted.solver_steps}"]
    chosen = chosen if "student" in made else []
    chosen += ["--set", "generator.decoder=light"] if "light-decoder" in made else []
    show(f"model {version.version}", model=version.version, samplers=distillation.samplers if distillation else ())
    words = ("generate", "--model", version.version, *chosen, "--output", "DIR")
    print_result(version.folder, command_line(*words, workspace=workspace))


def generate_command(
    output: OutputPlace,
    images: Images = None,
    model: Model = None,
    preset: Preset = "demo",
    config: File = None,
    overrides: Overrides = None,
    workspace: WorkspaceOption = "workspace",
    reuse: Annotated[
        str | None,
        typer.Option(
            help="Data set whose images are shared: only outcomes differ.", parser=address, metavar="PATH|URL"
        ),
    ] = None,
    refresh: Refresh = False,
    accept: Accept = None,
    dry_run: DryRun = False,
) -> None:
    """Generate and publish a data set; train the image models first if no registered one fits."""
    problems, found = Problems(), None
    settings = read_settings(problems, preset, config, overrides)
    with problems.noting(), naming_missing_extra():
        from image_longitudinal.tasks.preflight import foresee_generation

        found = foresee_generation(problems, settings, output, images, model, workspace, reuse)
    settings = _agreed(problems, settings, found, dry_run, training=model is None, generation=True)
    if dry_run:
        return
    with starting_prefect():
        from image_longitudinal.flows.generate_dataset import generate_dataset
    url = generate_dataset(
        output, images, config=settings, model=model, workspace=workspace, reuse=reuse, refresh=refresh,
        accept=accepted_kinds(accept),
    )  # fmt: skip
    note(f"report: {url}/report.html")
    print_result(url, command_line("verify", url, workspace=workspace))


def _agreed(
    problems: Problems, settings: Config | None, found: Found | None, dry_run: bool, *, training: bool, generation: bool
) -> Config:
    """The configuration, after the plan was shown and nothing was found that the run would refuse."""
    if settings is not None and (dry_run or not problems.found):
        plan = describe_plan(settings, training=training, generation=generation, found=found)
        if dry_run:
            show(plan, plan=plan.splitlines(), found=found)
        else:
            note(plan)
    return accepted(problems, settings)


def given_config(preset: str, file: str | None, overrides: list[str] | None) -> list[str]:
    """The options that choose a configuration, for a next command that needs the same one."""
    chosen = ["--preset", preset] + (["--config", file] if file else [])
    return chosen + [word for override in overrides or () for word in ("--set", override)]
