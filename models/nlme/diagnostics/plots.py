"""The usual figures of a population fit; each function returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.diagnostics.residuals import PERCENTILES, PredictiveCheck, Residuals
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.outcomes import expected

FloatArray = NDArray[np.float64]
INK, ACCENT, SOFT = "#1f2a37", "#b4441f", "#8fa3b5"
MOST_POINTS = 4000  # of a scatter plot; of more observations every k-th is drawn
FINE = 200  # points of a drawn curve


def goodness_of_fit(data: PopulationData, found: Residuals, errors: FloatArray | None = None) -> Figure:
    """Observed against predicted, and residuals against time and prediction; npde ``errors`` (N,) in the last panel."""
    figure = Figure(figsize=(9.6, 5.8), layout="constrained")
    (a, b, c), (d, e, f) = figure.subplots(2, 3)
    some = _some(len(data.times))
    for axis, predicted, label in ((a, found.pred, "population prediction"), (b, found.ipred, "individual prediction")):
        axis.plot(predicted[some], data.observed[some], ".", ms=4, color=SOFT, alpha=0.7, mew=0)
        ends = [float(min(predicted.min(), data.observed.min())), float(max(predicted.max(), data.observed.max()))]
        axis.plot(ends, ends, color=INK, lw=0.8)
        axis.set(xlabel=label, ylabel="observed")
    _scatter(c, data.times, found.cwres, "time", "CWRES")
    _scatter(d, found.pred, found.cwres, "population prediction", "CWRES")
    _scatter(e, found.ipred, np.abs(found.iwres), "individual prediction", "|IWRES|", level=np.sqrt(2 / np.pi))
    _quantiles(f, found.cwres if errors is None else errors, "CWRES" if errors is None else "NPDE")
    return figure


def distribution_errors(data: PopulationData, errors: FloatArray) -> Figure:
    """npde: histogram against N(0, 1), and against time."""
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _histogram(left, errors[np.isfinite(errors)], 1.0)
    left.set(xlabel="NPDE", ylabel="density")
    _scatter(right, data.times, errors, "time", "NPDE")
    return figure


def predictive_check_figure(check: PredictiveCheck, unit: str = "") -> Figure:
    """Observed percentiles as lines over the 95 % bands of the simulated ones."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    some = _some(len(check.times))
    axis.plot(check.times[some], check.outcomes[some], ".", ms=3, color=SOFT, alpha=0.4, mew=0)
    for q, percentile in enumerate(PERCENTILES):
        middle = percentile == 50.0
        alpha = 0.28 if middle else 0.15
        axis.fill_between(check.time, check.low[:, q], check.high[:, q], color=ACCENT, alpha=alpha, lw=0)
        axis.plot(check.time, check.middle[:, q], color=ACCENT, lw=0.8, ls=":")
        label = f"observed {percentile:g} %"
        axis.plot(check.time, check.observed[:, q], color=INK, lw=1.4, ls="-" if middle else "--", label=label)
    outcome = "prediction-corrected outcome" if check.corrected else "outcome"
    axis.set(xlabel="time", ylabel=f"{outcome} ({unit})" if unit else outcome)
    axis.legend(fontsize=7, frameon=False)
    bare(axis)
    return figure


def profiles_figure(points: Mapping[str, Sequence[tuple[float, float]]], objective: float, rise: float) -> Figure:
    """Rise of the objective above the fit's by the value held, a panel per estimate, with the level of a 95 % interval.

    ``points``: value and objective of each evaluation by estimate, in the order of the values.
    """
    columns = min(4, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, own) in zip(axes, points.items(), strict=False):
        near = np.array([(value, total - objective) for value, total in own if total - objective < 3 * rise])
        value, height = near.T
        signed = np.sqrt(np.maximum(height, 0.0)) * np.where(np.arange(len(height)) < height.argmin(), -1.0, 1.0)
        fine = np.linspace(value[0], value[-1], FINE)
        axis.plot(fine, np.interp(fine, value, signed) ** 2, lw=1, color=INK)  # the root is nearly a line
        axis.plot(value, height, "o", ms=3, color=INK)
        axis.axhline(rise, color=ACCENT, lw=0.8, ls="--")
        axis.set_xlabel(name)
        axis.set_ylabel("rise of the objective")
        bare(axis)
    for axis in axes[len(points) :]:
        axis.remove()
    return figure


def individual_fits(
    model: PopulationModel, data: PopulationData, eta: FloatArray, subjects: Sequence[int] | None = None
) -> Figure:
    """Observations with the individual and the population curve, for up to 12 subjects (positions in the data).

    With several endpoints: the endpoint of the subject's first observation. Of one with a likelihood, curves are means.
    """
    chosen = list(np.unique(np.linspace(0, len(data) - 1, 12).astype(int)) if subjects is None else subjects)[:12]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.5 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel()[len(chosen) :]:
        axis.set_axis_off()
    for axis, subject in zip(axes.ravel(), chosen, strict=False):
        one = data.subset(subject, subject + 1)
        shown = one.endpoint == one.endpoint[0]
        curve = _finely(one, int(one.endpoint[0]))
        objective = Objective(model, curve)
        for scale, colour, label in ((0.0, SOFT, "population"), (1.0, ACCENT, "individual")):
            if model.structural.likelihood is None:
                predicted = objective.predict(PopulationParameters.of(model), scale * eta[[subject]])[0]
            else:
                predicted = expected(model, scale * eta[[subject]], curve)
            axis.plot(curve.times, predicted, color=colour, lw=1.3, label=label)
        axis.plot(one.times[shown], one.observed[shown], "o", ms=2.8, color=INK, mew=0, label="observed")
        axis.set_title(f"subject {one.names[0]}", fontsize=8)
        axis.tick_params(labelsize=6)
        bare(axis)
    axes[0, 0].legend(fontsize=6, frameon=False)
    figure.supxlabel("time", fontsize=8)
    figure.supylabel("outcome", fontsize=8)
    return figure


def random_effects_figure(fit: Fit) -> Figure:
    """Distribution of each empirical Bayes estimate against the estimated N(0, ω²), with its shrinkage."""
    names = fit.model.random_effect_names
    figure = Figure(figsize=(2.7 * max(len(names), 1), 2.6), layout="constrained")
    for k, axis in enumerate(figure.subplots(1, max(len(names), 1), squeeze=False)[0]):
        _histogram(axis, fit.eta[:, k], float(np.sqrt(fit.model.omega[k][k])))
        axis.set_title(f"{names[k]}: shrinkage {fit.shrinkage[k]:.0%}", fontsize=9)
        axis.set_yticks([])
    return figure


def pairs_of_effects(fit: Fit) -> Figure:
    """Every pair of empirical Bayes estimates; shows correlation that is missing in Ω. Needs at least two."""
    names, some = fit.model.random_effect_names, _some(len(fit.eta))
    k = len(names) - 1
    figure = Figure(figsize=(2.5 * k, 2.2 * k), layout="constrained")
    axes = figure.subplots(k, k, squeeze=False)
    for (i, j), axis in np.ndenumerate(axes):
        if j > i:
            axis.set_axis_off()
            continue
        x, y = fit.eta[:, j], fit.eta[:, i + 1]
        axis.plot(x[some], y[some], ".", ms=3.5, color=SOFT, alpha=0.7, mew=0)
        correlation = np.corrcoef(x, y)[0, 1] if len(x) > 1 else np.nan
        axis.set_title(f"r = {correlation:.2f}", fontsize=7)
        axis.set_xlabel(names[j] if i == k - 1 else "", fontsize=8)
        axis.set_ylabel(names[i + 1] if j == 0 else "", fontsize=8)
        axis.tick_params(labelsize=6)
        bare(axis)
    return figure


def _finely(one: PopulationData, endpoint: int) -> PopulationData:
    """One subject with many evenly spaced times in place of its own, to draw a curve with."""
    first = min(one.times[0], one.when[0]) if len(one.when) else one.times[0]
    times = np.unique(np.concatenate([np.linspace(first, one.times[-1], FINE), one.when[one.when <= one.times[-1]]]))
    return replace(
        one,
        row_start=np.array([0, len(times)]),
        times=times,
        observed=np.ones(len(times)),  # not used
        before=np.searchsorted(one.when, times, side="right").astype(np.int64),
        endpoint=np.full(len(times), endpoint),
        censored=np.zeros(len(times), dtype=np.bool_),
    )


def _some(n: int) -> NDArray[np.int64]:
    return np.arange(0, n, -(-n // MOST_POINTS))


def _scatter(axis: Axes, x: FloatArray, y: FloatArray, x_label: str, y_label: str, level: float = 0.0) -> None:
    """Points, a line at the expected level, and the running mean over equally filled bins."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    axis.set(xlabel=x_label, ylabel=y_label)
    if not len(x):
        _nothing(axis)
        return
    some = _some(len(x))
    axis.plot(x[some], y[some], ".", ms=4, color=SOFT, alpha=0.6, mew=0)
    axis.axhline(level, color=INK, lw=0.8)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 11)))
    if len(edges) > 2:
        bin_of = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        used = np.unique(bin_of)
        axis.plot([x[bin_of == b].mean() for b in used], [y[bin_of == b].mean() for b in used], color=ACCENT, lw=1.4)
    bare(axis)


def _histogram(axis: Axes, values: FloatArray, sd: float) -> None:
    """Distribution of the values against N(0, sd²)."""
    if not len(values):
        _nothing(axis)
        return
    axis.hist(values, bins=np.linspace(-4 * sd, 4 * sd, 33).tolist(), density=True, color=SOFT)
    grid = np.linspace(-4 * sd, 4 * sd, FINE)
    axis.plot(grid, np.exp(-0.5 * (grid / sd) ** 2) / (sd * np.sqrt(2 * np.pi)), color=ACCENT)
    bare(axis)


def _quantiles(axis: Axes, values: FloatArray, label: str) -> None:
    """Ordered values against those of N(0, 1)."""
    ordered = np.sort(values[np.isfinite(values)])
    axis.set(xlabel="N(0, 1)", ylabel=label)
    if not len(ordered):
        _nothing(axis)
        return
    normal = ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
    some = np.unique(np.concatenate([_some(len(ordered)), np.arange(min(20, len(ordered)))]))
    some = np.unique(np.concatenate([some, len(ordered) - 1 - some]))
    axis.plot(normal[some], ordered[some], ".", ms=3, color=SOFT, mew=0)
    axis.plot(normal[[0, -1]], normal[[0, -1]], color=INK, lw=0.8)
    bare(axis)


def _nothing(axis: Axes) -> None:
    """An empty panel: no endpoint has such residuals."""
    axis.text(0.5, 0.5, "not defined for these endpoints", ha="center", va="center", fontsize=7, color=SOFT)
    bare(axis)


def bare(axis: Axes) -> None:
    """Hide the upper and the right line of the frame."""
    axis.spines[["top", "right"]].set_visible(False)
