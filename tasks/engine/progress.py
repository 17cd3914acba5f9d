"""Progress that a person can watch: log lines and a Prefect progress artifact with rate and time left."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from image_longitudinal.models.training.loop import TrainingProgress
from image_longitudinal.tasks.engine.training_view import TrainingView

ARTIFACT_SECONDS = 2.0  # the artifact is a database row: no need to write it for every step
LOG_SECONDS = 10.0


class Progress:
    """One piece of work with a known length, inside a flow or task run.

    Args:
        what: name in log lines and artifact, e.g. ``train vae``.
        total: units of work in all.
        unit: what is counted, in the plural.
        done: units that were done before this run; they do not count towards the rate.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit, self.first = what, total, unit, done
        self.logger = get_run_logger()
        self.view: TrainingView | None = None
        self.began = time.monotonic()
        self.told = self.logged = self.began
        self.artifact = cast(
            UUID,  # the function is a coroutine only inside an event loop
            create_progress_artifact(100 * done / max(total, 1), artifact_key(what), f"{what}: starting"),
        )

    def update(self, done: int, extra: str = "") -> None:
        """Say that ``done`` of ``total`` are done."""
        now, finished = time.monotonic(), done >= self.total
        rate = (done - self.first) / max(now - self.began, 1e-6)
        left = (self.total - done) / rate if rate > 0 else float("inf")
        pace = f"{rate:.3g} {self.unit}/s"
        remaining = f"done in {duration(now - self.began)}" if finished else f"{duration(left)} left"
        text = (
            f"{self.what}: {done:,} of {self.total:,} {self.unit}, {self.total - done:,} to go, {pace}, "
            f"{remaining}{extra and f'; {extra}'}"
        )
        if finished or now - self.told > ARTIFACT_SECONDS:
            update_progress_artifact(self.artifact, 100 * done / max(self.total, 1), description=text)
            self.told = now
        if finished or now - self.logged > LOG_SECONDS:
            self.logger.info(text)
            self.logged = now

    def of_training(self, progress: TrainingProgress) -> None:
        """The ``report`` argument of a training."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items() if name != "step")
        self.first = progress.first_step  # steps that an earlier run did are not this one's pace
        self.update(progress.step, figures)
        self.view = self.view or TrainingView(artifact_key(self.what))
        self.view.show(progress)


class DeviceShare:
    """What the devices that drew images were doing, summed over processes and shards; as text for people."""

    def __init__(self) -> None:
        self.images = self.seconds = self.busy = 0.0
        self.batch_size = 0

    def add(self, use: Mapping[str, float]) -> None:
        """The ``use`` of a shard's images, as :class:`tasks.shards.image_shards.MadeImages` has it; empty if it took none."""
        if not use:
            return
        self.images += use["images"]
        self.seconds += use["seconds"]
        self.busy += use["busy_seconds"]
        self.batch_size = int(use["batch_size"])

    def __str__(self) -> str:
        """Empty before the first shard."""
        if not self.seconds:
            return ""
        return f"device busy {min(self.busy / self.seconds, 1):.0%}, {self.batch_size} images at a time"


def artifact_key(text: str) -> str:
    """A name as Prefect's artifact keys want it: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds == float("inf"):
        return "unknown"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
