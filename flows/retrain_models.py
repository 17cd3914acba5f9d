"""retrain-models: scans added since the last run → a candidate model → production, if it is no worse."""

from __future__ import annotations

from typing import Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.storage.scans.scan_files import find_scans
from image_longitudinal.storage.scans.sources import local_scans
from image_longitudinal.tasks.engine.parameters import ConfigChoice, images_in_words, resolve
from image_longitudinal.tasks.ingest.prepare import ingest
from image_longitudinal.tasks.training.retraining import FolderMemory, announce, production_of, show_comparison
from image_longitudinal.tasks.training.training import trained_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="retrain-models", flow_run_name=lambda: f"retrain on {images_in_words()}", persist_result=False)
def retrain_models(
    images: str,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    start: Literal["production", "afresh"] = "production",
) -> str | None:
    """Train on a folder that grows, and promote what comes of it only if it is no worse.

    Args:
        images: Folder of scans that is watched.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as vae.steps=200, one per line.
        config: A whole configuration in the preset's place; what it leaves out is as in the published method.
        workspace: Local folder for prepared images, checkpoints and models.
        start: Weights to begin with; those of production go on from what was learned, afresh begins at random ones.

    Returns:
        The version that was trained; None where nothing was new.
    """
    config, space, logger = resolve(preset, config, overrides), Workspace.at(workspace), get_run_logger()
    memory = FolderMemory.of(space, images)
    scans = find_scans(local_scans(images, space.sources)).scans
    new = memory.new(scans)
    if not new:
        said = f"nothing new in {images}: {len(scans):,} scans, all seen before"
        logger.info(said)
        create_markdown_artifact(said, key="model-comparison", description="Nothing new")
        return None
    logger.info(f"{len(new):,} new scans in {images}, {len(scans):,} in all")
    prepared = ingest(images, config, space, held_out=memory.held_out)
    before = production_of(space.registry)
    version = trained_model(config, prepared, space, start=before if start == "production" else None)
    now = production_of(space.registry)
    promoted = now is not None and now.version == version.version and (before is None or before.version != now.version)
    show_comparison(version, before, promoted)
    if promoted:
        announce(version, space)
    memory.after(prepared, scans).save()
    logger.info(f"model {version.version} {'is production now' if promoted else 'was not promoted'}")
    return version.version
