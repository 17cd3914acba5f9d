"""Figures of a study design, a page for each knob: who benefits, what the arms are like, who is treated, covariates,
sites. Each is a Figure of the first subjects.
"""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.study_columns import EFFECTS, POTENTIAL, PROPENSITY
from image_longitudinal.storage.dataset.study_info import CovariateInfo, StudyInfo
from image_longitudinal.tasks.reports.dataset_figures import ACCENT, INK, SOFT, open_frame

FloatArray = NDArray[np.float64]
LOOKED_AT = 2_000  # subjects that the figures are about: the first ones, of whole shards
PER_SITE = 6  # images of a site
BINS = 40
COLOURS = (SOFT, ACCENT, "#3f7d5b", "#7a5ea8", "#c79a2b")  # of arms


def study_figures(dataset: Dataset) -> dict[str, Figure]:
    """The figures that the study of a data set has, by name."""
    info = dataset.manifest.study
    if info is None:
        return {}
    several = len(info.arms) > 1
    wanted: dict[str, tuple[bool, Callable[[Dataset, StudyInfo], Figure]]] = {
        "benefit": (several, benefit_figure), "effects": (several, effects_figure), "arms": (several, arms_figure),
        "propensity": (info.confounded, propensity_figure), "covariates": (bool(info.covariates), covariates_figure),
        "sites": (bool(info.sites), sites_figure),
    }  # fmt: skip
    return {name: made(dataset, info) for name, (shown, made) in wanted.items() if shown}


def _runs(dataset: Dataset) -> list[tuple[int, int]]:
    """The first runs of subjects, until there are enough of them."""
    found: list[tuple[int, int]] = []
    for run in dataset.runs(None):
        if sum(stop - start for start, stop in found) >= LOOKED_AT:
            break
        found.append(run)
    return found


def _ids(dataset: Dataset) -> NDArray[np.int64]:
    return np.concatenate([np.arange(*run) for run in _runs(dataset)])


def _column(dataset: Dataset, table: str, name: str, level: float | None = None) -> FloatArray:
    """A column of the subjects that are looked at, (n,)."""
    return np.concatenate([dataset.columns(table, level, *run, [name])[:, 0] for run in _runs(dataset)])


def _by_arm(dataset: Dataset, table: str, names: list[str]) -> FloatArray:
    """Columns of a table with a row for each subject and arm, at the strongest association: (n, A, names)."""
    info = dataset.manifest.study
    assert info is not None, "a study with arms"
    arms, level = len(info.arms), max(dataset.levels)
    pieces = [dataset.columns(table, level, *run, names, rows=arms) for run in _runs(dataset)]
    return np.concatenate(pieces).reshape(-1, arms, len(names))


def _told(dataset: Dataset, info: StudyInfo) -> FloatArray | None:
    """What images say of the last arm's first effect, (n,); None if nothing."""
    last = info.arms[-1]
    weights = np.array(info.image_weights.get(f"effect {last.name} {last.effects[0]}", ()) if last.effects else ())
    if not weights.any():
        return None
    return np.concatenate([dataset.latents[start:stop] for start, stop in _runs(dataset)]).astype(np.float64) @ weights


def benefit_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """Two images side by side above the outcomes under every arm: of subjects with a large and with a small effect,
    which the images tell if they tell anything.
    """
    ids, times = _ids(dataset), dataset.manifest.times
    effect = _by_arm(dataset, EFFECTS, [f"effect_{info.functional}"])[:, -1, 0]
    told, last = _told(dataset, info), info.arms[-1].name
    high = _rank(effect) if told is None else np.minimum(_rank(effect), _rank(told))
    low = _rank(-effect) if told is None else np.minimum(_rank(-effect), _rank(-told))
    arm = _column(dataset, "subjects", "arm").astype(int)
    potential = _by_arm(dataset, POTENTIAL, [f"dv_{i}" for i in range(len(times))])
    figure = Figure(figsize=(6.8, 5.8), layout="constrained")
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": [1.3, 1]})
    for column, row in enumerate((int(high.argmax()), int(low.argmax()))):
        top, bottom = axes[:, column]
        top.imshow(dataset.images[int(ids[row])], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        top.set_axis_off()
        title = f"subject {ids[row]}: {last} changes the {info.functional} by {effect[row]:+.3g}"
        if told is not None:
            title += f"\nthe image tells of more effect than {100 * np.mean(told < told[row]):.0f} % of images do"
        top.set_title(title, fontsize=8, color=INK)
        for number, one in enumerate(info.arms):
            taken = number == arm[row]
            bottom.plot(
                times, potential[row, number], color=COLOURS[number % len(COLOURS)], lw=1.6 if taken else 1.2,
                marker="." if taken else None, ls="-" if taken else (0, (4, 2)),
                label=f"{one.name}{' (observed)' if taken else ''}",
            )  # fmt: skip
        open_frame(bottom).set(xlabel="time")
        bottom.legend(frameon=False, fontsize=8)
        bottom.sharey(axes[1, 0])
    axes[1, 0].set_ylabel("outcome")
    return figure


def _rank(values: FloatArray) -> FloatArray:
    return np.argsort(np.argsort(values)) / len(values)


def effects_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """How many subjects the last arm changes how much; if images tell, of those that they tell apart."""
    effect = _by_arm(dataset, EFFECTS, [f"effect_{info.functional}"])[:, -1, 0]
    told, last = _told(dataset, info), info.arms[-1].name
    figure = Figure(figsize=(5.6, 2.9), layout="constrained")
    axis = figure.subplots()
    groups = {"all subjects": np.ones(len(effect), bool)}
    if told is not None:
        low, high = np.quantile(told, [1 / 3, 2 / 3])
        groups = {
            "third of the images that tells of the least effect": told <= low,
            "third that tells of the most": told >= high,
        }
    least, most = np.quantile(effect, [0.005, 0.995]).tolist()
    edges = np.linspace(least, most, BINS + 1)
    for (name, rows), colour in zip(groups.items(), COLOURS, strict=False):
        label = f"{name}: {100 * np.mean(effect[rows] > 0):.0f} % gain"
        axis.hist(np.clip(effect[rows], least, most), edges.tolist(), color=colour, alpha=0.7, label=label)
    axis.axvline(0, color=INK, lw=0.8)
    open_frame(axis).set(xlabel=f"individual effect of {last} on the {info.functional}", ylabel="subjects")
    axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def arms_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """Observed outcomes of each arm: the median over its subjects, and the middle half of them."""
    times = dataset.manifest.times
    arm = _column(dataset, "subjects", "arm").astype(int)
    potential = _by_arm(dataset, POTENTIAL, [f"dv_{i}" for i in range(len(times))])
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axis = figure.subplots()
    for number, one in enumerate(info.arms):
        members = potential[arm == number, number]
        if not len(members):
            continue
        low, middle, high = np.nanquantile(members, [0.25, 0.5, 0.75], axis=0)
        colour = COLOURS[number % len(COLOURS)]
        axis.fill_between(times, low, high, color=colour, alpha=0.2, lw=0)
        axis.plot(times, middle, color=colour, lw=1.6, label=f"{one.name}: {len(members):,} of {len(arm):,}")
    open_frame(axis).set(xlabel="time", ylabel="outcome")
    axis.legend(frameon=False, fontsize=8)
    return figure


def propensity_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """Propensities of the subjects in each arm, and what the difference of the arms says beside the true effect."""
    last = info.arms[-1].name
    treated, arm = _column(dataset, PROPENSITY, f"propensity_{last}"), _column(dataset, "subjects", "arm")
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axis, beside = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.6, 1]})
    for number, colour in enumerate((SOFT, ACCENT)):
        axis.hist(treated[arm == number], np.linspace(0, 1, BINS + 1).tolist(), color=colour, alpha=0.7,
                  label=info.arms[number].name)  # fmt: skip
    open_frame(axis).set(xlabel=f"probability of {last}", ylabel="subjects")
    axis.legend(frameon=False, fontsize=8)
    designed = {name.split(f" of {last} at")[0]: value for name, value in info.designed.items() if last in name}
    bars = {"true effect": designed["effect"], "difference\nof the arms": designed["naive difference"]}
    beside.bar([*bars], [*bars.values()], color=[INK, ACCENT], width=0.55)
    beside.axhline(0, color=INK, lw=0.8)
    open_frame(beside).set(ylabel=f"{info.functional}, designed")
    return figure


def covariates_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """The distribution of each covariate, by arm if there are arms."""
    figure = Figure(
        figsize=(2.6 * min(len(info.covariates), 3), 2.4 * -(-len(info.covariates) // 3)), layout="constrained"
    )
    axes = figure.subplots(-(-len(info.covariates) // 3), min(len(info.covariates), 3), squeeze=False).ravel()
    arm = _column(dataset, "subjects", "arm").astype(int) if info.arms else np.zeros(len(_ids(dataset)), int)
    names = [one.name for one in info.arms] or ["all"]
    for axis, one in zip(axes, info.covariates, strict=False):
        values = _column(dataset, "subjects", one.name)
        _distribution(axis, one, [values[arm == number] for number in range(len(names))], names)
        link = "" if one.linked_to == "nothing" else f", {100 * one.level:.0f} % from the {one.linked_to}"
        open_frame(axis).set_xlabel(f"{one.name}{link}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_yticks([])
    for axis in axes[len(info.covariates) :]:
        axis.set_axis_off()
    if info.arms:
        axes[0].legend(frameon=False, fontsize=7)
    return figure


def _distribution(axis: Axes, covariate: CovariateInfo, groups: list[FloatArray], names: list[str]) -> None:
    whole = np.concatenate(groups)
    for number, (values, name) in enumerate(zip(groups, names, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        if covariate.kind == "continuous":
            axis.hist(values, np.linspace(whole.min(), whole.max(), 30).tolist(), density=True, color=colour, alpha=0.6,
                      label=name)  # fmt: skip
            continue
        kinds = np.arange(int(whole.max()) + 1)
        width = 0.8 / len(groups)
        shares = [np.mean(values == kind) if len(values) else 0.0 for kind in kinds]
        axis.bar(kinds - 0.4 + width * (number + 0.5), shares, width, color=colour, label=name)
        axis.set_xticks(kinds.tolist())


def sites_figure(dataset: Dataset, info: StudyInfo) -> Figure:
    """A row of images of each site."""
    ids, site = _ids(dataset), _column(dataset, "subjects", "site")
    figure = Figure(figsize=(1.35 * PER_SITE, 1.5 * len(info.sites)), layout="constrained")
    axes = figure.subplots(len(info.sites), PER_SITE, squeeze=False)
    for number, one in enumerate(info.sites):
        for axis in axes[number]:
            axis.set_axis_off()
        for axis, subject in zip(axes[number], ids[site == number][:PER_SITE].tolist(), strict=False):
            axis.imshow(dataset.images[subject], cmap="gray", vmin=0, vmax=255)
        axes[number, 0].set_title(f"{one.name}, strength {one.strength:g}", fontsize=8, color=INK, loc="left")
    return figure
