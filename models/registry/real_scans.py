"""Which files of a version hold pictures of real scans: they stay in the workspace unless the user says otherwise.

A version keeps some held-out scans, with their reconstructions, to show beside generated images. They are made pixel by
pixel from a patient's scan. model.json names the files with their digests, so a copy without them is the same version.
"""

from pathlib import Path

from image_longitudinal.models.registry.metadata import WEIGHTS, ModelMetadata

EXAMPLES, GALLERY = "examples", "gallery"  # files of pictures, uint8
REAL = ("images", "triptychs")  # their arrays of scans: held-out ones, and scans beside reconstructions
NOTE = "Its pictures of real scans (`examples.safetensors`) stay in the workspace: exports and reports leave them out."


def may_hold_real_scans(metadata: ModelMetadata, file: str) -> bool:
    """Whether a file of a version may hold pictures of scans, so that a copy of the version may lack it."""
    return metadata.images.kind == "scans" and file.removesuffix(WEIGHTS) in (EXAMPLES, GALLERY)


def holds_real_scans(metadata: ModelMetadata, path: Path) -> bool:
    """Whether a version's file exists and holds a picture of a scan."""
    if not may_hold_real_scans(metadata, path.name) or not path.exists():
        return False
    from image_longitudinal.models.training.tensor_files import load_tensors  # here: torch takes a second to import

    return any(name in REAL and len(array) for name, array in load_tensors(path)[0].items())
