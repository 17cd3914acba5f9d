"""A running training in the Prefect UI: a table of the latest metrics and a plot of all, both updated in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from image_longitudinal.core.progress import Throttle
from image_longitudinal.tasks.engine.artifacts import LiveArtifact
from image_longitudinal.tasks.reports.pictures import picture

if TYPE_CHECKING:  # imports torch, which simulations and fits do not need
    from image_longitudinal.models.training.loop import TrainingProgress

SECONDS = 10.0  # between updates: a plot takes 0.2 s
PLOTTED = ("loss", "mse", "kl", "cycle", "validation", "active units")  # if the network has them
ROWS = 12  # of the table, evenly spaced over the run
POINTS = 400  # of the plot


class TrainingView:
    """Table and plot of one network's training.

    Args:
        what: name of the work, e.g. ``train-vae``; the artifacts' keys begin with it.
    """

    def __init__(self, what: str) -> None:
        self.table = LiveArtifact(f"{what}-metrics", "Metrics of the training, the latest first")
        self.plot = LiveArtifact(f"{what}-curves", "Metrics of the training, plotted")
        self.history: list[dict[str, float]] = []
        self._throttle = Throttle(SECONDS, ready_at_once=True)

    def show(self, progress: TrainingProgress) -> None:
        """Record the latest metrics; show all of them every few seconds, and at the end."""
        self.history.extend(progress.new_figures)
        if not self._throttle.ready(always=progress.step >= progress.steps):
            return
        names = list(dict.fromkeys(name for row in self.history for name in row))
        rows = _thinned(self.history, ROWS)
        self.table.show([{name: _digits(row.get(name)) for name in names} for row in rows])
        if len(self.history) > 1:
            # Here, since matplotlib takes a second to import.
            from image_longitudinal.tasks.reports.dataset_figures import training_figure

            plot = picture(training_figure(_thinned(self.history, POINTS)[::-1], PLOTTED), "metrics by step")
            self.plot.show(f"Step {progress.step:,} of {progress.steps:,}\n\n{plot}")


def _digits(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.5g}")


def _thinned(history: Sequence[dict[str, float]], rows: int) -> list[dict[str, float]]:
    """At most ``rows`` of the history, evenly spaced, the latest first."""
    return list(history[::-1][:: max(1, -(-len(history) // rows))])
