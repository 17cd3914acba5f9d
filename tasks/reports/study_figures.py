"""Figures of a study design: who benefits, how arms were assigned, what sites do to images: each a Figure."""

import numpy as np
from matplotlib.figure import Figure

from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.study_columns import POTENTIAL
from image_longitudinal.tasks.reports.dataset_figures import ACCENT, INK, SOFT, open_frame

LOOKED_AT = 512  # subjects among which those to show are chosen
PER_SITE = 6  # images of a site
BINS = 40


def study_figures(dataset: Dataset) -> dict[str, Figure]:
    """The figures that the study of a data set has, by name: benefit, propensity, sites."""
    info, found = dataset.manifest.study, dict[str, Figure]()
    if info is None:
        return found
    if len(info.arms) > 1:
        found["benefit"] = benefit_figure(dataset)
    if info.confounded:
        found["propensity"] = propensity_figure(dataset)
    if info.sites:
        found["sites"] = sites_figure(dataset)
    return found


def benefit_figure(dataset: Dataset) -> Figure:
    """Two images side by side, of the subjects with the largest and the smallest effect, above their two curves."""
    manifest, level = dataset.manifest, max(dataset.levels)
    info = manifest.study
    assert info is not None, "a study with arms"
    start, stop = dataset.runs(None)[0]
    stop = min(stop, start + LOOKED_AT)
    effect = f"effect_{info.functional}"
    effects = dataset.columns("truth/effects", level, start, stop, [effect], rows=len(info.arms))
    last = effects.reshape(-1, len(info.arms))[:, -1]
    chosen = (start + int(last.argmax()), start + int(last.argmin()))
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": [1.3, 1]})
    for column, subject in enumerate(chosen):
        top, bottom = axes[:, column]
        top.imshow(dataset.images[subject], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        top.set_axis_off()
        top.set_title(
            f"subject {subject}: {info.arms[-1].name} changes the {info.functional} by {last[subject - start]:+.3g}",
            fontsize=8, color=INK,
        )  # fmt: skip
        potential = dataset.rows(POTENTIAL, level, subject)
        colours = [SOFT, *[ACCENT] * (len(info.arms) - 1)]
        for number, (arm, colour) in enumerate(zip(info.arms, colours, strict=True)):
            values = [potential[f"dv_{i}"][number].as_py() for i in range(len(manifest.times))]
            bottom.plot(manifest.times, values, color=colour, marker=".", lw=1.4, label=arm.name)
        open_frame(bottom).set(xlabel="time")
        bottom.sharey(axes[1, 0])
    axes[1, 0].set_ylabel("outcome")
    axes[1, 0].legend(frameon=False, fontsize=8)
    return figure


def propensity_figure(dataset: Dataset) -> Figure:
    """Propensities of the subjects in each arm, of the first subjects."""
    info = dataset.manifest.study
    assert info is not None, "a study with arms"
    start, stop = dataset.runs(None)[0]
    treated = dataset.columns("truth/propensity", None, start, stop, [f"propensity_{info.arms[-1].name}"])[:, 0]
    arm = dataset.columns("subjects", None, start, stop, ["arm"])[:, 0]
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axis = figure.subplots()
    for number, colour in enumerate((SOFT, ACCENT)):
        axis.hist(treated[arm == number], np.linspace(0, 1, BINS + 1).tolist(), color=colour, alpha=0.7,
                  label=info.arms[number].name)  # fmt: skip
    open_frame(axis).set(xlabel=f"probability of {info.arms[-1].name}", ylabel="subjects")
    axis.legend(frameon=False, fontsize=8)
    return figure


def sites_figure(dataset: Dataset) -> Figure:
    """A row of images of each site."""
    info = dataset.manifest.study
    assert info is not None, "a study with sites"
    start, stop = dataset.runs(None)[0]
    site = dataset.columns("subjects", None, start, stop, ["site"])[:, 0]
    figure = Figure(figsize=(1.35 * PER_SITE, 1.5 * len(info.sites)), layout="constrained")
    axes = figure.subplots(len(info.sites), PER_SITE, squeeze=False)
    for number, one in enumerate(info.sites):
        members = start + np.flatnonzero(site == number)[:PER_SITE]
        for axis in axes[number]:
            axis.set_axis_off()
        for axis, subject in zip(axes[number], members.tolist(), strict=False):
            axis.imshow(dataset.images[subject], cmap="gray", vmin=0, vmax=255)
        axes[number, 0].set_title(f"{one.name}, strength {one.strength:g}", fontsize=8, color=INK, loc="left")
    return figure
