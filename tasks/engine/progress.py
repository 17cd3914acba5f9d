"""Progress in the log and as a Prefect progress artifact, with rate and time left."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from image_longitudinal.core.progress import Pace, Throttle
from image_longitudinal.core.units import duration
from image_longitudinal.tasks.engine.training_view import TrainingView

if TYPE_CHECKING:  # imports torch, which simulations and fits do not need
    from image_longitudinal.models.training.loop import TrainingProgress

ARTIFACT_SECONDS = 2.0  # an update is a write to a database
LOG_SECONDS = 10.0


class Progress:
    """One piece of work with a known length, inside a flow or task run.

    Args:
        what: name in log lines and artifact, e.g. ``train vae``.
        total: units of work.
        unit: what is counted, in the plural.
        done: units finished before this run; they do not count towards the rate.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.unit = what, unit
        self.pace = Pace(total, done)
        self.logger = get_run_logger()
        self.view: TrainingView | None = None
        self._artifact_throttle, self._log_throttle = Throttle(ARTIFACT_SECONDS), Throttle(LOG_SECONDS)
        self._artifact = cast(
            UUID,  # the function is a coroutine only inside an event loop
            create_progress_artifact(100 * done / max(total, 1), artifact_key(what), f"{what}: starting"),
        )

    def update(self, done: int, extra: str = "") -> None:
        """Report that ``done`` of ``total`` units are finished."""
        pace, finished = self.pace, done >= self.pace.total
        time = f"done in {duration(pace.elapsed)}" if finished else f"{duration(pace.seconds_left(done))} left"
        text = (
            f"{self.what}: {done:,} of {pace.total:,} {self.unit}, {pace.total - done:,} to go, "
            f"{pace.rate(done):.3g} {self.unit}/s, {time}{extra and f'; {extra}'}"
        )
        if self._artifact_throttle.ready(always=finished):
            update_progress_artifact(self._artifact, 100 * done / max(pace.total, 1), description=text)
        if self._log_throttle.ready(always=finished):
            self.logger.info(text)

    def of_training(self, progress: TrainingProgress) -> None:
        """The ``report`` argument of a training."""
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items() if name != "step")
        self.pace.first = progress.first_step  # steps of an earlier run do not count towards the rate
        self.update(progress.step, metrics)
        self.view = self.view or TrainingView(artifact_key(self.what))
        self.view.show(progress)


def artifact_key(text: str) -> str:
    """A key as Prefect requires it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
