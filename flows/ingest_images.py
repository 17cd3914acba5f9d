"""ingest-images: from a folder of scans to cleaned images of one geometry, split by patient."""

from prefect import flow

from image_longitudinal.core.config import Config
from image_longitudinal.storage.scans.prepared import PreparedImages
from image_longitudinal.tasks.engine.parameters import ConfigChoice, images_in_words, resolve
from image_longitudinal.tasks.ingest.prepare import ingest
from image_longitudinal.tasks.ingest.review import draw_review
from image_longitudinal.tasks.workspace import Workspace


@flow(name="ingest-images", flow_run_name=lambda: f"ingest {images_in_words()}", persist_result=False)
def ingest_images(
    images: str | None = None,
    preset: ConfigChoice = "demo",
    overrides: tuple[str, ...] = (),
    config: Config | None = None,
    workspace: str = "workspace",
    refresh: bool = False,
    review: bool = False,
) -> PreparedImages:
    """Prepare training images.

    Args:
        images: Folder, zip or tar file, or URL of scans (JPEG, PNG, TIFF, NumPy, DICOM). Without one, phantom images.
        preset: Configuration to start from.
        overrides: Values over the preset's, such as dataset.n_subjects=2000, one per line.
        config: A whole configuration instead of a preset; omitted values are those of the published method.
        workspace: Local folder for prepared images, checkpoints and models.
        refresh: Prepare them again, cached or not.
        review: Draw refused, cured and some other scans, with the reasons, into review.png beside the prepared images.
    """
    place = Workspace.at(workspace)
    prepared = ingest(images, resolve(preset, config, overrides), place, refresh)
    if review and images is not None:
        draw_review(images, prepared, place)
    return prepared
