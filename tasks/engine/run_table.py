"""One table on the page of a run that says where it is: each stage, also of the runs within it, figures, disk, GPUs."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from image_longitudinal.core.progress import Step, Throttle, duration, human_bytes, listening
from image_longitudinal.tasks.engine.progress import LiveArtifact

SECONDS = 5.0  # between updates: each is a write to a database
KEY = "run"  # of the artifact
Row = dict[str, str]


class RunTable:
    """Rows by stage, in the order in which the stages began; :meth:`tell` may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()

    def tell(self, step: Step) -> None:
        """Take note of how far a stage is."""
        if not step.total:
            self.note(step.what, step.extra)
            return
        left = f"done in {duration(step.elapsed)}" if step.finished else f"{duration(step.seconds_left)} left"
        done, rate = f"{step.done:,} of {step.total:,} {step.unit}", f"{step.rate:.3g} {step.unit}/s"
        with self._lock:
            self._rows[step.what] = _row(step.what, done, rate, left, step.extra)

    def note(self, stage: str, text: str) -> None:
        """Take note of figures."""
        with self._lock:
            self._rows[stage] = _row(stage, latest=text)

    def rows(self) -> list[Row]:
        """All rows, and one of the machine."""
        with self._lock:
            return [*self._rows.values(), _row("machine", latest=machine(self.folder))]


def _row(stage: str, done: str = "", rate: str = "", time: str = "", latest: str = "") -> Row:
    return {"stage": stage, "done": done, "rate": rate, "time": time, "latest": latest}


def machine(folder: Path) -> str:
    """Free space where ``folder`` is or will be, and the memory of each GPU."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    said = [f"disk {human_bytes(shutil.disk_usage(there).free)} free"]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        said.append(f"GPU {number} {human_bytes(total - free)} of {human_bytes(total)} used")
    return ", ".join(said)


@contextmanager
def run_table(folder: Path) -> Iterator[RunTable]:
    """Show a :class:`RunTable` as an artifact of the current run while the body works, updated in place.

    Args:
        folder: the workspace, whose disk is watched.
    """
    table, throttle = RunTable(folder), Throttle(SECONDS)
    artifact = LiveArtifact(KEY, "Where this run is")
    artifact.show(table.rows())  # created here, so that it is of this run and not of one within it

    def tell(step: Step) -> None:
        table.tell(step)
        if throttle.ready():
            artifact.show(table.rows())

    with listening(tell):
        yield table
    artifact.show(table.rows())
