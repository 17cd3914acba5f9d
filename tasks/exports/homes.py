"""The homes that a data set can be exported to, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from image_longitudinal.core.errors import ConfigError, did_you_mean
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.root import Root
from image_longitudinal.tasks.exports import bids, hugging_face, image_files, nonmem, web_dataset
from image_longitudinal.tasks.exports.export import Exported, Home, choose, write_export

_ALL = (hugging_face.HOME, web_dataset.HOME, image_files.IMAGE_FOLDER, image_files.NIFTI, nonmem.HOME, bids.HOME)
HOMES: dict[str, Home] = {home.name: home for home in _ALL}


def find_home(name: str) -> Home:
    """The home of that name; ConfigError lists those there are."""
    if name not in HOMES:
        raise ConfigError(
            "no such home of a data set", expected=", ".join(HOMES), got=name, do=did_you_mean(name, HOMES)
        )
    return HOMES[name]


def export_dataset(
    dataset: Dataset,
    target: Root,
    home: str,
    *,
    splits: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    workers: int = 2,
    overwrite: bool = False,
    progress: Callable[[Exported], None] | None = None,
) -> Exported:
    """Write a data set, or chosen splits and levels of it, in the form of another home.

    Nothing of ``truth/`` is written, and no scan of a real person: a data set holds none.

    Args:
        dataset: an open data set.
        target: an empty folder or URL, or one with the same export, which is completed.
        home: a key of :data:`HOMES`.
        splits, levels: those to write; all by default.
        workers: pieces written at a time; the files do not depend on it.
        overwrite: replace another export in the target.
        progress: called after each piece.

    Raises:
        ConfigError: no such home, or its control stream cannot be written for the data set's model.
        StorageError: no such split or level, the target holds other files, or a store fails.
    """
    chosen = choose(dataset, splits, levels)
    return write_export(chosen, target, find_home(home), workers=workers, overwrite=overwrite, progress=progress)
