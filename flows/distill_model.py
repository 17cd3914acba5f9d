"""distill-model: a registered model → the same with a few-step student and a light decoder, compared and registered."""

from prefect import flow, get_run_logger

from image_longitudinal.core.config import Config
from image_longitudinal.flows.ingest_images import ingest_images
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.engine.parameters import ConfigChoice, resolve
from image_longitudinal.tasks.training.distill import distilled_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="distill-model", flow_run_name="distil {model}", persist_result=False)
def distill_model(
    model: str = "production",
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
) -> ModelVersion:
    """Distil a registered model; skips what is already done.

    Args:
        model: Registered model (version or alias).
        images: The folder of scans it was trained on. Without one, the phantom images.
        preset: Configuration it was trained with.
        overrides: Values over the preset's, such as distillation.student_steps=5000, one per line.
        config: A whole configuration instead of the preset.
        workspace: Local folder for prepared images, checkpoints and models.
    """
    config = resolve(preset, config, overrides)
    place = Workspace.at(workspace)
    base = place.model(model)
    prepared = ingest_images(images, config=config, workspace=workspace)
    version = distilled_model(base, config, prepared, place)
    distillation = version.metadata.distillation
    for row in distillation.samplers if distillation else ():
        get_run_logger().info(
            f"{row.solver} {row.steps}, {row.decoder} decoder: recoverability {row.recoverability:.3f} "
            f"(loss {row.recoverability_loss_percent:+.1f} %), FD {row.fd:.3f} ({row.fd_loss_percent:+.1f} %)"
        )
    return version
