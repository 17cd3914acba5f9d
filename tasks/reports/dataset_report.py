"""report.html: a self-contained page beside the data about the data set and its quality."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from image_longitudinal.core.config import ReportConfig
from image_longitudinal.core.gates import gate_rows
from image_longitudinal.models.design.achieved import AchievedRow
from image_longitudinal.models.design.association import AssociationSums
from image_longitudinal.models.registry.real_scans import EXAMPLES
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.card_quality import readable_rows, reading
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.reports.dataset_figures import (
    association_figure,
    loss_figure,
    pairs_figure,
    recoverability_figure,
)
from image_longitudinal.tasks.reports.model_figures import model_pictures, quality_rows
from image_longitudinal.tasks.reports.pages import page
from image_longitudinal.tasks.reports.pictures import mosaic, rendered
from image_longitudinal.tasks.reports.scorecard import scorecard_rows
from image_longitudinal.tasks.reports.study_figures import LOOKED_AT, study_figures
from image_longitudinal.tasks.reports.study_rows import by_knob

REPORT = "report.html"
PAIRS, MOSAIC = 7, 24


def achieved_association(dataset: Dataset) -> dict[float, list[AssociationSums]]:
    """Sums per level and random effect: effects used for outcomes against those linked to the image.

    Reads one split of one shard at a time, so memory does not grow with the data set.
    """
    runs = [run for split in dataset.manifest.present_splits for run in dataset.runs(split)]
    achieved: dict[float, list[AssociationSums]] = {}
    for level in dataset.levels:
        sums = [AssociationSums(0, (0.0,) * 5) for _ in dataset.manifest.random_effects]
        for run in runs:
            pairs = zip(dataset.linked_eta[slice(*run)].T, dataset.used_eta(level)[slice(*run)].T, strict=True)
            sums = [total + AssociationSums.of(*pair) for total, pair in zip(sums, pairs, strict=True)]
        achieved[level] = sums
    return achieved


def write_report(
    root: Root,
    manifest: RootManifest,
    *,
    version: ModelVersion | None,
    eta_dims: tuple[int, ...],
    recoverability: list[float],
    achieved: dict[float, list[AssociationSums]],
    shown: ReportConfig,
    study: Sequence[AchievedRow] = (),
) -> FileRecord:
    """Write the page of a data set about to be published; equal data sets and models give equal bytes.

    ``version`` generated the images (None: the phantom), ``eta_dims`` are the latent dimensions that became η,
    ``recoverability`` is R² of each dimension read from images, ``achieved``: :func:`achieved_association`, ``study``:
    designed and achieved numbers of a study design (:mod:`tasks.reports.study_rows`). What the images say of the
    effects, and the gates, are in the manifest. Pictures of real scans are in the page only if ``shown`` includes them.

    Raises:
        ModelError: they are asked for, and this copy of the model comes without them.
    """
    dataset = Dataset(root, manifest)
    subjects = np.unique(np.linspace(0, len(dataset) - 1, PAIRS).astype(int)).tolist()
    generated = dataset.images[:MOSAIC]
    pictures: dict[str, bytes | Figure] = {
        "pairs": pairs_figure(dataset, subjects),
        "generated": mosaic(generated, 8, scale=_scale(generated)),
        "recoverability": recoverability_figure(recoverability, eta_dims),
        "association": association_figure([(manifest.designed(level), sums) for level, sums in achieved.items()]),
        **study_figures(dataset),
    }
    if version is not None:
        shows_training = version.metadata.images.kind == "phantom" or shown.include_real_scans
        if shows_training and len(real := version.tensors(EXAMPLES)["images"].numpy()):
            pictures["real"] = mosaic(real, 8, scale=_scale(real))
        if (loss := loss_figure(version.metadata.training)) is not None:
            pictures["loss"] = loss
        pictures |= model_pictures(version, real_scans=shown.include_real_scans)
    filled = page(
        REPORT, pictures, manifest=manifest, model=version.metadata if version else None,
        model_version=version.version if version else None, recoverability=recoverability,
        readable=readable_rows(manifest), reading=reading(manifest), gates=gate_rows(manifest.gates or ()),
        eta_dims=eta_dims, rows=association_rows(achieved, manifest),
        quality=quality_rows(version.metadata.measured) if version else [],
        scorecard=scorecard_rows(version.metadata.measured) if version else [],
        scans_licence=shown.scans_licence or manifest.licence, study=by_knob(study), looked_at=LOOKED_AT,
    )  # fmt: skip
    return root.write_bytes(REPORT, filled.encode())


def association_rows(achieved: dict[float, list[AssociationSums]], manifest: RootManifest) -> list[dict[str, Any]]:
    """One row per level and random effect: designed and achieved fraction with its 95 % interval."""
    rows = []
    for level, sums in achieved.items():
        for name, one, designed in zip(manifest.random_effects, sums, manifest.designed(level), strict=True):
            value, low, high = one.r_squared()
            figures = {"achieved": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
            inside = bool(low <= designed <= high)
            rows.append({"designed": designed, "random effect": name, **figures, "inside": inside})
    return rows


def thumbnails(dataset: Dataset) -> tuple[bytes, bytes]:
    """Small pictures for an artifact: a few pairs, and a strip of images."""
    n = len(dataset)
    few = np.unique(np.linspace(0, n - 1, 4).astype(int)).tolist()
    step = max(1, dataset.manifest.image.width // 128)  # 128 pixels per picture: artifacts are stored in a database
    strip = dataset.images[:8, ::step, ::step]
    return rendered(pairs_figure(dataset, few)), mosaic(strip, len(strip), scale=_scale(strip))


def _scale(images: NDArray[np.uint8]) -> int:
    return max(1, 128 // images.shape[1])
