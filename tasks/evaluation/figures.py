"""The figures of an evaluation, each as a matplotlib Figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from image_longitudinal.models.evaluation.design_checks import FAMILY, Check
from image_longitudinal.models.evaluation.level_scores import HeldOutSubjects, Predictions
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS, LABELS
from image_longitudinal.models.evaluation.records import LevelScores
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.plots import goodness_of_fit, predictive_check_figure
from image_longitudinal.models.nlme.diagnostics.residuals import predictive_check, residuals
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import simulate
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.tasks.reports.dataset_figures import ACCENT, INK, SOFT

BLUE, GREEN, PURPLE = "#2b6ca3", "#4b8b3b", "#7a4fa3"
COLOURS = dict(zip(IMAGE_PREDICTORS, (BLUE, PURPLE, ACCENT, GREEN, INK), strict=True))
PAPER = {1.0: 0.6007, 0.5: 0.3017, 0.1: 0.0544, 0.0526: 0.0271, 0.02: 0.0064}  # R² in arXiv 2410.16177, 1M subjects

PANELS = 12
POINTS = 2_000  # of a scatter plot
DIAGNOSED, REPLICATES = 500, 200  # subjects of the fit's diagnostics, and simulated copies of them


def trajectories_figure(
    model: PopulationModel, known: PopulationModel, truth: HeldOutSubjects, predictions: Predictions
) -> Figure:
    """Observed outcomes of 12 test subjects with those of true, predicted and average random effects."""
    chosen = np.unique(np.linspace(0, len(truth.ids) - 1, PANELS).astype(int))
    fine = np.linspace(min(model.design.times), max(model.design.times), 121)
    informed = predictions.sources["informed"][chosen]
    curves = {
        "true effects": (simulate(known, truth.eta[chosen], fine), INK, "-"),
        "predicted from the image": (simulate(model, informed, fine), ACCENT, "-"),
        "average": (simulate(model, np.zeros_like(informed), fine), SOFT, "--"),
    }
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(3, 4, sharex=True, sharey=True).ravel()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for i, (axis, row) in enumerate(zip(axes, chosen, strict=False)):
        for label, (values, colour, style) in curves.items():
            axis.plot(fine, values[i], style, color=colour, lw=1.5, label=label)
        axis.plot(model.design.times, truth.observed[row], ".", color=BLUE, ms=4, label="observed")
        axis.set_title(f"subject {truth.ids[row]}", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.supxlabel("time", fontsize=9)
    figure.supylabel("outcome", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return _without_frame(figure)


def r2_figure(levels: Sequence[LevelScores]) -> Figure:
    """R² of every predictor against the designed level, with the published points."""
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axis = figure.subplots()
    levels = sorted(levels, key=lambda level: level.level)
    designed = np.array([level.level for level in levels])
    floor = designed.min() / 20
    axis.plot(designed, designed, color=SOFT, lw=1, ls=":", label="designed ρ²")
    names = [name for name in COLOURS if all(name in level.effects for level in levels)]
    for shift, name in enumerate(names):
        found = np.array([level.effects[name].r2 for level in levels])
        x = designed * 1.06 ** (shift - len(names) / 2)
        y = np.maximum(found, floor)
        axis.vlines(x, y[:, 1], y[:, 2], color=COLOURS[name], lw=1.4)
        axis.plot(x, y[:, 0], "o", ms=4.5, color=COLOURS[name], label=LABELS[name])
    paper = [value for value in designed if value in PAPER]
    if paper:
        axis.plot(paper, [PAPER[value] for value in paper], "x", ms=6, color="black", label="published (1M subjects)")
    axis.set(xscale="log", yscale="log", xlabel="designed ρ²", ylabel="R² to true random effects (95 %)")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(designed.tolist(), [f"{value:g}" for value in designed])
    axis.set_ylim(floor, 1.5)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return _without_frame(figure)


def calibration_figure(levels: Sequence[LevelScores]) -> Figure:
    """Coverage of the regions of the image-informed model against their nominal coverage."""
    figure = Figure(figsize=(2.6 * len(levels) + 0.4, 3.3), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for axis, level in zip(axes, levels, strict=True):
        rows = level.calibration
        nominal, joint = [row.nominal for row in rows], np.array([row.joint for row in rows])
        axis.plot([0, 1], [0, 1], color=SOFT, lw=1, ls=":")
        axis.fill_between(nominal, joint[:, 1], joint[:, 2], color=ACCENT, alpha=0.25, lw=0)
        axis.plot(nominal, joint[:, 0], color=ACCENT, lw=1.6, label="all effects jointly")
        for i in range(len(rows[0].each)):
            each = [row.each[i].value for row in rows]
            axis.plot(nominal, each, color=BLUE, lw=0.8, alpha=0.8, label="each effect" if i == 0 else None)
        axis.set(title=f"ρ² = {level.level:g}", xlabel="nominal", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes[0].set_ylabel("fraction of subjects inside")
    axes[0].legend(frameon=False, fontsize=7)
    return _without_frame(figure)


def scatter_figure(
    truths: Sequence[HeldOutSubjects], predictions: Sequence[Predictions], names: Sequence[str]
) -> Figure:
    """Predicted against true random effects: a row per level, a column per effect."""
    figure = Figure(figsize=(2.7 * len(names), 2.5 * len(truths)), layout="constrained")
    axes = figure.subplots(len(truths), len(names), squeeze=False, sharex=True, sharey="row")
    for row, (truth, predicted) in enumerate(zip(truths, predictions, strict=True)):
        some = np.unique(np.linspace(0, len(truth.ids) - 1, POINTS).astype(int))
        eta = predicted.sources["informed"]
        size = 3 if len(some) > 300 else 9
        for column, (axis, name) in enumerate(zip(axes[row], names, strict=True)):
            axis.scatter(truth.eta[some, column], eta[some, column], s=size, color=ACCENT, alpha=0.35, lw=0)
            axis.axline((0, 0), slope=1, color=INK, lw=0.7, ls=":")
            axis.axline((0, 0), slope=truth.level, color=SOFT, lw=0.7)
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(name, fontsize=9)
            if row == len(truths) - 1:
                axis.set_xlabel("true", fontsize=8)
        axes[row, 0].set_ylabel(f"predicted, ρ² = {truth.level:g}", fontsize=8)
    return _without_frame(figure)


def forecast_figure(levels: Sequence[LevelScores]) -> Figure:
    """Error of later outcomes against visits seen, with and without the image."""
    figure = Figure(figsize=(2.7 * len(levels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for axis, level in zip(axes, levels, strict=True):
        rows = level.forecasts
        visits, without = [row.visits for row in rows], np.array([row.outcomes_without for row in rows])
        with_image = np.array([row.outcomes_with_image for row in rows])
        for found, colour, label in ((without, SOFT, "visits alone"), (with_image, ACCENT, "image and visits")):
            axis.fill_between(visits, found[:, 1], found[:, 2], color=colour, alpha=0.25, lw=0)
            axis.plot(visits, found[:, 0], "o-", ms=4, color=colour, label=label)
        axis.set(title=f"ρ² = {level.level:g}", xlabel="visits seen", yscale="log", xticks=visits)
    axes[0].set_ylabel("MSE of later outcomes")
    axes[0].legend(frameon=False, fontsize=8)
    return _without_frame(figure)


def extremes_figure(dataset: Dataset, truth: HeldOutSubjects, predictions: Predictions, names: Sequence[str]) -> Figure:
    """Images of the test subjects whose predicted random effects are lowest and highest, a row per effect."""
    eta, each = predictions.sources["informed"], 4
    figure = Figure(figsize=(1.35 * 2 * each, 1.55 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2 * each, squeeze=False)
    for row, name in enumerate(names):
        order = np.argsort(eta[:, row], kind="stable")
        for axis, index in zip(axes[row], [*order[:each], *order[-each:]], strict=True):
            subject = int(truth.ids[index])
            axis.imshow(dataset.images[subject], cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{eta[index, row]:.2f} ({truth.linked[index, row]:.2f})", fontsize=7)
        axes[row, 0].set_ylabel(name, fontsize=8)
    return figure


def fit_figures(model: PopulationModel, truth: HeldOutSubjects) -> dict[str, Figure]:
    """Diagnostics of the fitted population on evenly spaced test subjects: visual predictive check, residuals."""
    some = np.unique(np.linspace(0, len(truth.ids) - 1, DIAGNOSED).astype(int))
    times, doses = model.design.times, model.design.doses
    people = PopulationData.of_design(model.structural, truth.observed[some], times, doses, ids=truth.ids[some])
    check = predictive_check(model, people, n=REPLICATES, seed=truth.seed)
    found = residuals(model, people, truth.modes[some])
    return {"vpc": predictive_check_figure(check), "residuals": goodness_of_fit(people, found)}


def design_figure(checks: Sequence[Check]) -> Figure:
    """Achieved over designed association of each effect, and the sorted p-values of all checks."""
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    associations = [check for check in checks if check.group == "association" and check.expected < 1]
    for x, check in enumerate(associations):
        colour = INK if check.passed else ACCENT
        left.vlines(x, check.low / check.expected, check.high / check.expected, color=colour, lw=1.4)
        left.plot(x, check.value / check.expected, "o", ms=4.5, color=colour)
    left.axhline(1, color=SOFT, lw=0.8, ls=":")
    left.set_xticks(range(len(associations)), [f"{check.expected:g}" for check in associations], fontsize=7)
    left.set(xlabel="designed ρ², one mark per random effect", ylabel="achieved / designed (95 %)")
    p = np.sort([max(check.p, 1e-16) for check in checks])
    rank = (np.arange(len(p)) + 0.5) / len(p)
    right.plot(rank, rank, color=SOFT, lw=0.8, ls=":")
    right.plot(rank, p, ".", ms=4, color=INK)
    right.axhline(FAMILY / len(p), color=ACCENT, lw=1)
    right.set(yscale="log", ylim=(min(p[0], FAMILY / len(p)) / 3, 1.5), xlabel="rank of the check", ylabel="p-value")
    return _without_frame(figure)


def reading_figure(r2: Sequence[float], eta_dims: Sequence[int]) -> Figure:
    """How well each latent dimension is read from test images; those that are random effects are marked."""
    figure = Figure(figsize=(max(4.0, 0.22 * len(r2)), 2.6), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(r2)), np.clip(r2, 0, 1), color=[ACCENT if i in eta_dims else SOFT for i in range(len(r2))])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="latent dimension", ylabel="R² read from test images", ylim=(0, 1))
    return _without_frame(figure)


def _without_frame(figure: Figure) -> Figure:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
