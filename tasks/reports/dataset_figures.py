"""The report's figures: each function returns a matplotlib Figure."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.models.design.association import AssociationSums
from image_longitudinal.models.registry.metadata import TrainingFigures
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.subject import Subject

INK, ACCENT, SOFT = "#1f2a37", "#b4441f", "#8fa3b5"


def pairs_figure(dataset: Dataset, subjects: Sequence[int]) -> Figure:
    """Each subject's image above the outcomes at the strongest and the weakest association level."""
    strong, weak = max(dataset.levels), min(dataset.levels)
    width = 1.9 * len(subjects)
    figure = Figure(figsize=(width, 3.9))
    # Fixed margins: computing them for so many axes takes as long as the plot itself.
    margins = {"left": 0.55 / width, "right": 1 - 0.08 / width, "bottom": 0.11, "top": 0.94, "hspace": 0.06}
    axes = figure.subplots(
        2, len(subjects), squeeze=False, gridspec_kw={"height_ratios": [1.3, 1], "wspace": 0.08, **margins}
    )
    for column, subject_id in enumerate(subjects):
        subject = dataset.subject(subject_id)
        top, bottom = axes[:, column]
        top.imshow(subject.image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        top.set_axis_off()
        top.set_title(f"subject {subject_id}", fontsize=8, color=INK)
        for level, colour in {weak: SOFT, strong: ACCENT}.items():
            _plot_outcomes(bottom, subject, level, color=colour, lw=1.4, ms=3)
        bottom.set_xlabel("time", fontsize=7)
        bottom.tick_params(labelsize=6)
        open_frame(bottom).sharey(axes[1, 0])
        bottom.tick_params(labelleft=column == 0)
    axes[1, 0].set_ylabel("outcome", fontsize=7)
    axes[1, 0].legend(fontsize=6, frameon=False)
    return figure


def subject_figure(dataset: Dataset, subject_id: int) -> Figure:
    """One subject: the image with the random effects linked to it, and the outcomes at every association level."""
    subject, manifest = dataset.subject(subject_id), dataset.manifest
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, 1.35]})
    left.imshow(subject.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    left.set_axis_off()
    left.set_title(f"{manifest.name}, subject {subject_id} ({subject.split})", fontsize=10, color=INK)
    linked = zip(manifest.random_effects, subject.linked_eta, strict=True)
    effects = "   ".join(f"{name} {value:+.2f}" for name, value in linked)
    left.text(0.5, -0.03, effects, transform=left.transAxes, ha="center", va="top", fontsize=8, color=INK)
    levels = sorted(dataset.levels)
    for place, level in enumerate(levels):
        strength = (place + 1) / len(levels)  # stronger association: redder and thicker line
        colour = tuple(strength * a + (1 - strength) * b for a, b in zip(to_rgb(ACCENT), to_rgb(SOFT), strict=True))
        _plot_outcomes(right, subject, level, color=colour, lw=0.8 + strength, ms=4)
    for dose in manifest.doses:
        right.axvline(dose.time, color=INK, lw=0.8, ls=":", zorder=0)
    units = {name: manifest.units.get(name, "1") for name in ("time", "dv")}
    labels = {name: "" if unit == "1" else f" ({unit})" for name, unit in units.items()}
    open_frame(right).set(xlabel=f"time{labels['time']}, doses dotted", ylabel=f"outcome{labels['dv']}")
    right.legend(frameon=False, fontsize=8)
    return figure


def loss_figure(training: TrainingFigures) -> Figure | None:
    """Loss curves of the networks of a model version; None if none was trained."""
    vae, diffusion = training.vae.history, training.diffusion.history if training.diffusion else None
    curves = []
    if vae:  # a flattened retina is fitted, not trained
        curves += [("vae", vae, "mse", "reconstruction error"), ("vae", vae, "kl", "KL (nats)")]
    if diffusion:
        curves.append(("diffusion", diffusion, "loss", "diffusion loss"))
    curves = [one for one in curves if any(one[2] in row for row in one[1])]  # private training logs no errors of scans
    if not curves:
        return None
    figure = Figure(figsize=(3.6 * len(curves), 2.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (network, logged, key, label) in zip(axes, curves, strict=True):
        history = [row for row in logged if key in row]  # a validation's row has no loss
        steps = np.array([row["step"] for row in history])
        values = np.array([row[key] for row in history])
        axis.plot(steps, values, color=SOFT, lw=0.8)
        axis.plot(steps, _smoothed(values), color=ACCENT, lw=1.6)
        open_frame(axis).set(xlabel="step", title=f"{network}: {label}", yscale="linear" if key == "kl" else "log")
    return figure


def training_figure(history: Sequence[dict[str, float]], names: Sequence[str]) -> Figure:
    """Figures of a training by step, one panel for each of ``names`` that it has."""
    there = [name for name in names if any(name in row for row in history)]
    rows_of_panels = -(-len(there) // 3)  # three beside each other are as wide as a page of the UI
    figure = Figure(figsize=(7.8, 2.2 * rows_of_panels), layout="constrained")
    for axis, name in zip(figure.subplots(rows_of_panels, 3).flat, there, strict=False):
        rows = [row for row in history if name in row]
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], color=ACCENT, lw=1.2)
        positive = name in ("loss", "mse") and all(row[name] > 0 for row in rows)
        open_frame(axis).set(title=name, xlabel="step", yscale="log" if positive else "linear")
        axis.tick_params(labelsize=7, which="both")
    for axis in figure.axes[len(there) :]:
        axis.remove()
    return figure


def recoverability_figure(recoverability: Sequence[float], eta_dims: Sequence[int]) -> Figure:
    """R² per latent dimension, with those that became η highlighted."""
    figure = Figure(figsize=(max(4.0, 0.22 * len(recoverability)), 2.6), layout="constrained")
    axis = figure.subplots()
    latent_bars(axis, np.clip(recoverability, 0, 1), eta_dims)
    axis.axhline(0.8, color=INK, lw=0.6, ls=":")
    axis.set(xlabel="latent dimension", ylabel="R² of recovery", ylim=(0, 1))
    return figure


def association_figure(achieved: Sequence[tuple[Sequence[float], Sequence[AssociationSums]]]) -> Figure:
    """Designed and drawn fraction of variance of each effect, effects against η, 95 % intervals; an item per level."""
    figure = Figure(figsize=(4.2, 3.4), layout="constrained")
    axis = figure.subplots()
    least = min((one for designed, _ in achieved for one in designed if one > 0), default=1.0)
    axis.plot([least / 2, 1.1], [least / 2, 1.1], color=INK, lw=0.7, ls=":")
    floor = least / 10  # what reaches 0 ends here on the logarithmic axes
    for designed, found in sorted(achieved, key=lambda item: tuple(item[0])):
        for k, (one, sums) in enumerate(zip(designed, found, strict=True)):
            value, low, high = sums.r_squared()
            place = max(one, least / 2) * (1 + 0.06 * (k - 1))
            axis.plot([place, place], [max(low, floor), high], color=SOFT, lw=2)
            axis.plot(place, max(value, floor), "o", ms=4, color=ACCENT)
    open_frame(axis).set(xscale="log", yscale="log", xlabel="designed ρ²", ylabel="R² of effects on η (95 % interval)")
    axis.set_ylim(floor, 1.3)
    return figure


def open_frame(axis: Axes) -> Axes:
    """The axis without its upper and right spines."""
    axis.spines[["top", "right"]].set_visible(False)
    return axis


def latent_bars(axis: Axes, values: ArrayLike, highlighted: Collection[int], **style: Any) -> None:
    """One bar per latent dimension, the highlighted dimensions in the accent colour."""
    heights = np.asarray(values)
    colours = [ACCENT if dimension in highlighted else SOFT for dimension in range(len(heights))]
    open_frame(axis).bar(range(len(heights)), heights, color=colours, **style)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_outcomes(axis: Axes, subject: Subject, level: float, **style: Any) -> None:
    rows = subject.observations[level]
    seen = rows["evid"].to_numpy() == 0
    time, dv = rows["time"].to_numpy()[seen], rows["dv"].to_numpy()[seen]
    axis.plot(time, dv, marker=".", label=f"ρ² = {level:g}", **style)


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    window = max(1, len(values) // 15)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")
