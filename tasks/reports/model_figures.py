"""Pictures of a registered model, for the report and for Prefect's artifacts."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.models.quality.gallery import SWEEP
from image_longitudinal.models.registry.metadata import RANDOM_EFFECTS, Measurement
from image_longitudinal.models.registry.real_scans import EXAMPLES, GALLERY
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.reports.dataset_figures import INK, latent_bars
from image_longitudinal.tasks.reports.scorecard import scorecard_figure

NOTHING = torch.empty(0)
GIF_SIDE, GIF_MILLISECONDS = 160, 220  # pixels of an image; a frame's time, the last is held longer


def model_pictures(version: ModelVersion, *, real_scans: bool = False) -> dict[str, bytes | Figure]:
    """Every picture of a model by name: figures, and with a diffusion model ``noise``, a GIF.

    ``triptychs``, which are made of the scans that the model was trained for, only with ``real_scans``, or if these
    are phantoms.
    """
    measured = version.metadata.measured
    gallery = version.tensors(GALLERY) if version.has(GALLERY) else {}  # an older copy may come without it
    if version.metadata.images.kind == "scans":
        gallery = gallery | version.tensors(EXAMPLES) if real_scans else {**gallery, "triptychs": NOTHING}
    pictures: dict[str, bytes | Figure] = {"importance": importance_figure(measured)}
    if measured.judgement and measured.judgement.utility:
        pictures["scorecard"] = scorecard_figure(measured.judgement.utility)
    if "traversal" in gallery:
        pictures["traversal"] = traversal_figure(gallery["traversal"].numpy(), measured.latent_order)
    if len(gallery.get("triptychs", NOTHING)):
        pictures["triptychs"] = triptych_figure(gallery["triptychs"].numpy())
    if "noise_to_image" in gallery:
        pictures["noise"] = animation(gallery["noise_to_image"].numpy())
    return pictures


def quality_rows(measured: Measurement) -> list[dict[str, Any]]:
    """A table: per feature space and figure, generated against held-out, and the floor, real against held-out."""
    rows = [
        (space, name.upper() if name in ("fd", "kid") else name, value, getattr(figures.floor, name))
        for space, figures in measured.fidelity.items()
        for name, value in figures.generated
    ]
    if measured.judgement:
        sets, space = measured.judgement.measures, f"judge {measured.judgement.judge.name}"
        for name, one in (
            ("FD, floors", sets.frechet), ("KID", sets.kernel), ("classifier AUC", sets.classifier_auc),
            ("precision", sets.precision), ("recall", sets.recall), ("density", sets.density),
            ("coverage", sets.coverage),
        ):  # fmt: skip
            rows.append((space, name, one.value, one.null))
    if near := measured.memorisation:
        figure = "nearest training image, 1st percentile"
        rows.append(("pixels", figure, near.generated_first_percentile, near.held_out_first_percentile))
    if copies := measured.copies:
        rows.append(("correlation", "copies of single training scans, share", copies.share, copies.held_out_share))
        figure = "nearest training scan over the others, least ratio"
        rows.append(("correlation", figure, copies.least_ratio, copies.held_out_least_ratio))
    return [
        {"features": space, "figure": figure, "generated": round(value, 4), "real (floor)": round(floor, 4)}
        for space, figure, value, floor in rows
    ]


def traversal_figure(images: NDArray[np.uint8], latent_order: list[int]) -> Figure:
    """One row per latent dimension, swept from -3 to 3: images (rows, 7, S, S)."""
    rows, columns = images.shape[:2]
    figure = Figure(figsize=(1.25 * columns, 1.3 * rows + 0.2), layout="constrained")
    axis = _sheet(figure, images, [f"z[{dimension}]" for dimension in latent_order[:rows]])
    axis.set_xticks(axis.get_xticks(), [f"{value:+g}" for value in SWEEP[:columns]])
    return figure


def triptych_figure(images: NDArray[np.uint8]) -> Figure:
    """Real, reconstructed, generated from the same latents, one scan per column: images (3, n, S, S)."""
    figure = Figure(figsize=(1.4 * images.shape[1] + 0.3, 4.3), layout="constrained")
    _sheet(figure, images, ["real", "reconstructed", "generated"])
    return figure


def importance_figure(measured: Measurement) -> Figure:
    """Per latent dimension: change of the image, error of encode(decode(z)), and R² from generated images."""
    panels: list[tuple[str, Sequence[float], bool]] = [
        ("mean squared change when resampled", measured.importance.change, False),
        ("squared error of encode(decode(z))", measured.importance.reading_error, False),
        ("R² read from generated images", np.clip(measured.recoverability, 0, 1).tolist(), True),
    ]
    figure = Figure(figsize=(10.5, 2.6), layout="constrained")
    for axis, (label, values, is_r2) in zip(figure.subplots(1, 3), panels, strict=True):
        errors = np.where(np.asarray(values) > 0, measured.noise_spread, 0) if is_r2 else None
        style = {"yerr": errors, "error_kw": {"lw": 0.8, "ecolor": INK}}
        latent_bars(axis, values, measured.latent_order[:RANDOM_EFFECTS], **style)
        axis.set_xlabel("latent dimension", fontsize=8)
        axis.set_title(label, fontsize=9, color=INK)
        axis.tick_params(labelsize=7)
        if is_r2:
            axis.set_ylim(0, 1)
    return figure


def animation(frames: NDArray[np.uint8]) -> bytes:
    """Images being denoised, side by side, as a GIF that repeats: frames (n, k, S, S) uint8.

    Large ones are averaged down: noise does not compress, and the picture is stored in a report and a database.
    """
    scale, block = max(1, GIF_SIDE // frames.shape[-1]), max(1, frames.shape[-1] // GIF_SIDE)
    n, k, side = *frames.shape[:2], frames.shape[-1] // block
    kept = frames[..., : side * block, : side * block].reshape(n, k, side, block, side, block)
    small = kept.mean((3, 5)).round().astype(np.uint8)
    wide = [np.concatenate(list(frame), axis=1).repeat(scale, 0).repeat(scale, 1) for frame in small]
    pages = [Image.fromarray(page) for page in wide]
    times = [GIF_MILLISECONDS] * (len(pages) - 1) + [6 * GIF_MILLISECONDS]
    buffer = io.BytesIO()
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=times, loop=0)
    return buffer.getvalue()


def _sheet(figure: Figure, images: NDArray[np.uint8], labels: list[str]) -> Axes:
    """Images (rows, columns, S, S) on one axis, with labelled rows and an unlabelled tick per column.

    One axis, because laying out a grid of them takes a second.
    """
    rows, columns, side, _ = images.shape
    pitch = side + max(1, side // 16)
    sheet = np.full((rows * pitch, columns * pitch), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            sheet[row * pitch :, column * pitch :][:side, :side] = images[row, column]
    axis = figure.subplots()
    axis.imshow(sheet[: side - pitch, : side - pitch], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    axis.set_xticks([(side - 1) / 2 + pitch * column for column in range(columns)], [""] * columns)
    axis.set_yticks([(side - 1) / 2 + pitch * row for row in range(rows)], labels, rotation=90, va="center")
    axis.tick_params(length=0, labelsize=8, labelcolor=INK, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    return axis
