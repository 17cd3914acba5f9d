"""Progress in the log and in the Prefect UI: with rate and time left, and as artifacts that are updated in place."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from image_longitudinal.core.progress import Counter, Throttle
from image_longitudinal.tasks.reports.pictures import picture

if TYPE_CHECKING:  # imports torch, which simulations and fits do not need
    from image_longitudinal.models.training.loop import TrainingProgress

ARTIFACT_SECONDS, LOG_SECONDS = 2.0, 10.0  # an update of an artifact is a write to a database
PLOT_SECONDS = 10.0  # between updates of a training's table and plot: a plot takes 0.2 s
PLOTTED = ("loss", "mse", "kl", "cycle", "validation", "active units")  # if the network has them
SHOWN = "image_longitudinal_shown"  # attribute of a record that the command's display shows in its own way
ROWS, POINTS = 12, 400  # of a training's table and plot, evenly spaced over the run


def in_run() -> bool:
    """Whether a run of Prefect's calls this code; else a command or a program calls the function of a flow."""
    return (FlowRunContext.get() or TaskRunContext.get()) is not None


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The logger of the current run, or that of this package outside a run."""
    return get_run_logger() if in_run() else logging.getLogger("image_longitudinal")


class Progress:
    """One piece of work with a known length; inside a run also in its log and as an artifact.

    Args:
        what: name in log lines and artifact, e.g. ``train vae``.
        total: units of work.
        unit: what is counted, in the plural.
        done: units finished before this run; they do not count towards the rate.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what = what
        self._counter = Counter(what, total, unit, done)
        self.logger = run_logger()
        self.view: TrainingView | None = None
        self._artifact_throttle, self._log_throttle = Throttle(ARTIFACT_SECONDS), Throttle(LOG_SECONDS)
        self._artifact: UUID | None = None
        if in_run():  # the function is a coroutine only inside an event loop
            started = create_progress_artifact(100 * done / max(total, 1), artifact_key(what), f"{what}: starting")
            self._artifact = cast(UUID, started)

    def update(self, done: int, extra: str = "") -> None:
        """Report that ``done`` of ``total`` units are finished."""
        step = self._counter.update(done, extra)
        if self._artifact and self._artifact_throttle.ready(always=step.finished):
            update_progress_artifact(self._artifact, 100 * done / max(step.total, 1), description=str(step))
        if self._log_throttle.ready(always=step.finished):
            self.logger.info(str(step), extra={SHOWN: True})

    def of_training(self, progress: TrainingProgress) -> None:
        """The ``report`` argument of a training; adds a table of the latest metrics and a plot of all."""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items() if name != "step")
        self._counter.pace.first = progress.first_step  # steps of an earlier run do not count towards the rate
        self.update(progress.step, metrics)
        self.view = self.view or TrainingView(artifact_key(self.what))
        self.view.show(progress)


class LiveArtifact:
    """An artifact under ``key`` that shows the latest text (markdown) or the latest rows (a table).

    It stays one row of Prefect's database, however long the work takes.
    """

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self._id: UUID | None = None

    def show(self, content: str | Sequence[Mapping[str, Any]]) -> None:
        """Replace the content; its kind, text or rows, is that of the first call."""
        data: Any = content if isinstance(content, str) else [dict(row) for row in content]
        if self._id is None:
            create = create_markdown_artifact if isinstance(content, str) else create_table_artifact
            self._id = cast(UUID, create(data, key=self.key, description=self.description))
            return
        with get_client(sync_client=True) as client:
            update = ArtifactUpdate(data=data if isinstance(data, str) else json.dumps(data))
            client.update_artifact(self._id, update)


class TrainingView:
    """Table and plot of one network's training, whose keys begin with ``what``, e.g. ``train-vae``."""

    def __init__(self, what: str) -> None:
        self.table = LiveArtifact(f"{what}-metrics", "Metrics of the training, the latest first")
        self.plot = LiveArtifact(f"{what}-curves", "Metrics of the training, plotted")
        self.history: list[dict[str, float]] = []
        self._throttle = Throttle(PLOT_SECONDS, ready_at_once=True)

    def show(self, progress: TrainingProgress) -> None:
        """Record the latest metrics; show all of them every few seconds, and at the end."""
        self.history.extend(progress.new_figures)
        if not self._throttle.ready(always=progress.step >= progress.steps):
            return
        names = list(dict.fromkeys(name for row in self.history for name in row))
        digits = [{name: f"{value:.5g}" for name, value in row.items()} for row in self._thinned(ROWS)]
        self.table.show([{name: float(row[name]) if name in row else "" for name in names} for row in digits])
        if len(self.history) > 1:
            # Here, since matplotlib takes a second to import.
            from image_longitudinal.tasks.reports.dataset_figures import training_figure

            plot = picture(training_figure(self._thinned(POINTS)[::-1], PLOTTED), "metrics by step")
            self.plot.show(f"Step {progress.step:,} of {progress.steps:,}\n\n{plot}")

    def _thinned(self, rows: int) -> list[dict[str, float]]:
        """At most ``rows`` of the history, evenly spaced, the latest first."""
        return self.history[::-1][:: max(1, -(-len(self.history) // rows))]


def artifact_key(text: str) -> str:
    """A key as Prefect requires it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
