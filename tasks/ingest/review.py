"""A picture of what was refused, cured and taken, for the person who knows the scans."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import IngestError
from image_longitudinal.core.files import replacing
from image_longitudinal.core.secrets import hidden
from image_longitudinal.models.scans.cleaning import to_grey
from image_longitudinal.storage.io.root import storage_errors
from image_longitudinal.storage.scans import scan_files
from image_longitudinal.storage.scans.contact_sheet import evenly
from image_longitudinal.storage.scans.prepared import REVIEW, PreparedImages
from image_longitudinal.storage.scans.review_sheet import TILE, ReviewEntry, review_sheet
from image_longitudinal.storage.scans.sources import local_scans
from image_longitudinal.tasks.workspace import Workspace

MOST_ODD, TAKEN = 150, 24  # entries: refused and cured ones, others


def draw_review(source: str, prepared: PreparedImages, workspace: Workspace) -> Path:
    """Write ``review.png`` beside the prepared images of the scans at ``source``; returns its path."""
    folder = local_scans(hidden(source), workspace.sources)
    manifest = prepared.manifest
    size = min(prepared.sizes, key=lambda size: abs(size - TILE))
    squares = prepared.images(size)
    refused = [ReviewEntry(item.file, f"REFUSED: {item.reason}", _picture(folder, item.file), None)
               for item in manifest.set_aside[:MOST_ODD]]  # fmt: skip
    cured = [index for index, image in enumerate(manifest.images) if image.cures]
    ordinary = [index for index, image in enumerate(manifest.images) if not image.cures]
    taken = [ordinary[place] for place in evenly([manifest.images[index].label for index in ordinary], TAKEN)]
    entries = list(refused)
    for index in [*cured[: MOST_ODD - len(refused)], *taken]:
        image = manifest.images[index]
        verdict = f"CURED: {'; '.join(image.cures)}" if image.cures else "taken as it is"
        entries.append(ReviewEntry(image.file, verdict, _picture(folder, image.file), np.asarray(squares[index])))
    counts = manifest.counts
    note = f"{counts.set_aside} refused, {counts.cured} cured, {counts.images - counts.cured} taken as they are"
    path = prepared.folder / REVIEW
    with storage_errors("cannot write the review", str(path)), replacing(path) as temporary:
        review_sheet(entries, note).save(temporary, "PNG")
    return path


def _picture(folder: Path, file: str) -> NDArray[np.uint8] | None:
    """A file's pixels as they are, grey (H, W); None if it is no picture."""
    scan = scan_files.read_scan(scan_files.listed_scan(folder, file))
    if isinstance(scan, scan_files.SetAside):
        return None
    try:
        return to_grey(scan.content)
    except IngestError:
        return None
