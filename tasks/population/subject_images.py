"""Images of the subjects of a table, read into what a learner or a predictor takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError, IngestError, StorageError
from image_longitudinal.models.image_effects.subject_images import SubjectImages
from image_longitudinal.models.imaging.assembly import load_vae
from image_longitudinal.models.quality.recoverability import encoder_reader
from image_longitudinal.models.scans.cleaning import to_grey
from image_longitudinal.storage.scans.subject_pictures import SubjectPictures
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.workspace import Workspace

TOGETHER = 256  # images in memory at their own size


@dataclass(frozen=True, eq=False)
class ReadImages:
    """What a learner or predictor takes of n subjects: small images, or an encoder's features (n, F).

    ``size``: height and width of the images as they were.
    """

    inputs: SubjectImages | NDArray[np.float64]
    size: tuple[int, int]


def read_subject_images(
    pictures: SubjectPictures, *, encoder: str | None = None, workspace: str = "workspace",
    size: tuple[int, int] | None = None,
) -> ReadImages:  # fmt: skip
    """Read all pictures, as grey levels.

    Args:
        pictures: of n subjects.
        encoder: registered model whose encoder reads features.
        workspace: folder with the registry.
        size: height and width that all must have; those of the first if None.

    Raises:
        StorageError: a picture that cannot be read or has another size.
        ModelError: no such model.
    """
    read = _encoder(encoder, workspace) if encoder else None
    progress, done = Progress("read images", len(pictures.owner), "images"), 0
    parts: list[NDArray[Any]] = []
    while done < len(pictures.owner):
        chosen = range(done, min(done + TOGETHER, len(pictures.owner)))
        images = []
        for i in chosen:
            try:
                grey = to_grey(pictures.pixels(i))
            except IngestError as error:
                raise StorageError("cannot use an image", where=pictures.names[i], got=error) from error
            size = size or grey.shape
            if grey.shape != tuple(size):
                expected = f"{size[0]}x{size[1]}" + ("" if i == 0 else f", as {pictures.names[0]} is")
                raise StorageError(
                    "images of different sizes", where=pictures.names[i], expected=expected,
                    got=f"{grey.shape[0]}x{grey.shape[1]}", do="bring all images to one size (ingest does)",
                )  # fmt: skip
            images.append(grey)
        batch = np.stack(images)
        parts.append(read(batch) if read else SubjectImages.of(batch).pixels)
        done = chosen.stop
        progress.update(done)
    assert size is not None
    small = SubjectImages(np.zeros((0, 1, 1), np.float32), pictures.owner, int(pictures.owner.max()) + 1)
    whole = np.concatenate(parts)
    if read:
        return ReadImages(small.averaged(whole.astype(np.float64)), size)
    return ReadImages(SubjectImages(whole, pictures.owner, len(small)), size)


def check_contrast(images: ReadImages, names: Sequence[str]) -> None:
    """ConfigError if all images are the same: they can say nothing."""
    rows = images.inputs.pixels if isinstance(images.inputs, SubjectImages) else images.inputs
    if len(rows) > 1 and (rows == rows[0]).all():
        raise ConfigError("all images are the same", where=f"{names[0]} and {len(names) - 1:,} others")


def _encoder(name: str, workspace: str) -> Any:
    return encoder_reader(load_vae(Workspace.at(workspace).model(name)))
