"""A training as it runs, in the Prefect UI: a table of the latest figures and a plot of all, both updated in place."""

from __future__ import annotations

import time
from collections.abc import Sequence

from image_longitudinal.models.training.loop import TrainingProgress
from image_longitudinal.tasks.engine.artifacts import LiveMarkdown, LiveTable
from image_longitudinal.tasks.reports.pictures import picture

SECONDS = 10.0  # between updates: drawing takes 0.2 s, and nobody looks more often
SHOWN = ("loss", "mse", "kl", "cycle", "validation", "active units")  # those of them that a network has are drawn
ROWS = 12  # of the table, evenly spaced over the run
POINTS = 400  # of the plot


class TrainingView:
    """Table and plot of one network's training.

    Args:
        what: name of the work, e.g. ``train-vae``; the artifacts' keys begin with it.
    """

    def __init__(self, what: str) -> None:
        self.table = LiveTable(f"{what}-metrics", "Figures of the training, the latest first")
        self.plot = LiveMarkdown(f"{what}-curves", "Figures of the training, drawn")
        self.history: list[dict[str, float]] = []
        self.shown = -SECONDS

    def show(self, progress: TrainingProgress) -> None:
        """Take note of the latest figures; show all of them now and then, and at the end."""
        self.history.extend(progress.new_figures)
        if progress.step < progress.steps and time.monotonic() - self.shown < SECONDS:
            return
        self.shown = time.monotonic()
        names = list(dict.fromkeys(name for row in self.history for name in row))
        self.table.show([{name: _digits(row.get(name)) for name in names} for row in _spread(self.history)])
        if len(self.history) > 1:
            from image_longitudinal.tasks.reports.dataset_figures import (
                training_figure,
            )  # here: matplotlib takes a second to import

            drawn = picture(training_figure(_spread(self.history, POINTS)[::-1], SHOWN), "figures by step")
            self.plot.show(f"Step {progress.step:,} of {progress.steps:,}\n\n{drawn}")


def _digits(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.5g}")


def _spread(history: Sequence[dict[str, float]], rows: int = ROWS) -> list[dict[str, float]]:
    """At most ``rows`` of the history, evenly spaced, the latest first."""
    step = max(1, -(-len(history) // rows))
    return list(history[::-1][::step])
