"""The scans and the network that judge a model, from the prepared images that it was trained on."""

import numpy as np
from numpy.typing import NDArray
from prefect import get_run_logger

from image_longitudinal.models.quality.judge.judge import LEAST_IMAGES, RealScans
from image_longitudinal.models.quality.judge.networks import PACKAGE, VGG16, judge_is_installed, load_judge
from image_longitudinal.models.quality.model_metrics import JudgedScans
from image_longitudinal.storage.scans.prepared import PreparedImages

MAX_TRAIN, MAX_HELD_OUT = 400, 200  # images: the judge takes a fifth of a second of a core for each


def judged_scans(images: PreparedImages, size: int, judge: str) -> JudgedScans | None:
    """Training scans, those of the patients of both other splits, and the network of this name.

    None, which the log says, with too few scans of other patients, or without the weights of the usual judge.

    Raises:
        ModelError: another judge is named, and cannot be loaded.
    """
    splits = np.array([image.split for image in images.manifest.images])
    train, held_out = np.flatnonzero(splits == "train"), np.flatnonzero(splits != "train")
    if min(len(train), len(held_out)) < LEAST_IMAGES:
        get_run_logger().warning(f"images are not judged: it takes {LEAST_IMAGES} of training and held out")
        return None
    if judge == VGG16 and not judge_is_installed():
        get_run_logger().warning(
            f"images are not judged from outside: {PACKAGE} is not installed; models without a judgement are not "
            "compared in features. Install image-longitudinal[judge]"
        )
        return None
    chosen = (_evenly(train, MAX_TRAIN), _evenly(held_out, MAX_HELD_OUT))
    return JudgedScans(load_judge(judge), *(_scans(images, size, rows) for rows in chosen))


def _scans(images: PreparedImages, size: int, rows: NDArray[np.int64]) -> RealScans:
    records = [images.manifest.images[row] for row in rows]
    patients = np.array([record.patient for record in records])
    return RealScans(np.asarray(images.images(size)[rows]), patients, [record.label for record in records])


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
