"""verify-all: every data set published in a folder, one after another, as run by a nightly schedule."""

from prefect import flow, get_run_logger

from image_longitudinal.core.errors import StorageError
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.layout import ROOT_MANIFEST
from image_longitudinal.storage.io.open import open_root


@flow(name="verify-all", flow_run_name="verify all in {folder}", persist_result=False)
def verify_all(folder: str = "datasets", workers: int = 2) -> str:
    """Check every data set published directly under a folder; all are checked, even after a bad one.

    Args:
        folder: A local folder or any fsspec URL.
        workers: Shards checked at a time.

    Returns:
        What was found, in a sentence.

    Raises:
        StorageError: at the end, naming each bad data set and its first problem.
    """
    root = open_root(folder)
    found = [name for name in root.entries() if root.exists(f"{name}/{ROOT_MANIFEST}")]
    bad = []
    for name in found:
        try:
            verify(root.join(name), workers=workers)
        except StorageError as error:
            bad.append(f"{name}: {error}")
    if bad:
        raise StorageError(f"{len(bad)} of {len(found)} data sets are damaged; {'; '.join(bad)}", where=folder)
    summary = f"{len(found)} data sets in {folder} verified" if found else f"no data set is published in {folder} yet"
    get_run_logger().info(summary)
    return summary
