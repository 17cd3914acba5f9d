"""ingest-images: from a folder of scans to cleaned images of one geometry, split by patient."""

from __future__ import annotations

from prefect import flow

from core.config import Config
from flows.parameters import ConfigChoice, resolve
from storage.prepared import PreparedImages
from tasks.ingest import ingest
from tasks.workspace import Workspace


@flow(name="ingest-images", flow_run_name="ingest {images}", persist_result=False, validate_parameters=True)
def ingest_images(
    images: str | None = None, preset: ConfigChoice = "demo", config: Config | None = None, workspace: str = "workspace"
) -> PreparedImages:
    """Prepare training images.

    Args:
        images: folder of scans (JPEG, PNG, TIFF; in class folders or not). Without one, phantom images are drawn.
        preset: configuration to start from.
        config: a whole configuration; takes the preset's place.
        workspace: local folder for prepared images, checkpoints and models.
    """
    return ingest(images, resolve(preset, config), Workspace.at(workspace))
