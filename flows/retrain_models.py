"""retrain-models: scans added since the last run → a candidate model → production, if it is no worse."""

from typing import Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.gates import GateKind
from image_longitudinal.core.secrets import hidden
from image_longitudinal.storage.scans.scan_files import find_scans
from image_longitudinal.storage.scans.sources import local_scans
from image_longitudinal.tasks.engine.parameters import ConfigChoice, images_in_words, resolve
from image_longitudinal.tasks.ingest.prepare import ingest
from image_longitudinal.tasks.training.retraining import FolderRecord, announce, production_of, show_comparison
from image_longitudinal.tasks.training.train import trained_model
from image_longitudinal.tasks.workspace import Workspace


@flow(name="retrain-models", flow_run_name=lambda: f"retrain on {images_in_words()}", persist_result=False)
def retrain_models(
    images: str,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    start: Literal["production", "afresh"] = "production",
    accept: tuple[GateKind, ...] = (),
) -> str | None:
    """Train on a growing folder of scans, and promote the new model only if it is no worse.

    Args:
        images: Folder of scans.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as vae.steps=200, one per line.
        config: A whole configuration instead of the preset; omitted values are those of the published method.
        workspace: Local folder for prepared images, checkpoints and models.
        start: Initial weights: those of production, or random ones (afresh).
        accept: Gates that may fail, by kind: latents, recoverability, fidelity, copies. What failed stays on record.

    Returns:
        The trained version; None if there were no new scans.

    Raises:
        RefusedByGateError: the new model is not good enough, whatever production is; the scans count as new next time.
    """
    config, space, logger = resolve(preset, config, overrides), Workspace.at(workspace), get_run_logger()
    images = hidden(images)
    record, scans = FolderRecord.of(space, images), find_scans(local_scans(images, space.sources)).scans
    new = [scan for scan in scans if scan.name not in record.seen]
    if not new:
        message = f"nothing new in {images}: {len(scans):,} scans, all seen before"
        logger.info(message)
        create_markdown_artifact(for_markdown(message), key="model-comparison", description="Nothing new")
        return None
    logger.info(f"{len(new):,} new scans in {images}, {len(scans):,} in all")
    prepared = ingest(images, config, space, held_out=record.held_out)
    before = production_of(space.registry)
    version = trained_model(config, prepared, space, start=before if start == "production" else None, accept=accept)
    now = production_of(space.registry)
    promoted = now is not None and now.version == version.version and (before is None or before.version != now.version)
    show_comparison(version, before, promoted)
    announce(version, space, promoted)
    record.after(prepared, scans).save()
    logger.info(f"model {version.version} {'is production now' if promoted else 'was not promoted'}")
    return version.version
