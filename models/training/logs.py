"""A training's figures as TensorBoard event files: one folder per network, beside its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_folder(checkpoint: Path) -> Path:
    """The folder of event files of a training with this checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.tensorboard")


def open_log(folder: Path, history: list[dict[str, float]]) -> SummaryWriter:
    """A writer (a context manager) of new event files in ``folder``, for one process.

    Existing event files are replaced by the history of the checkpoint, so a training that was killed and resumed shows
    as one curve.
    """
    from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

    shutil.rmtree(folder, ignore_errors=True)
    log = SummaryWriter(str(folder))
    for row in history:
        add_row(log, row)
    return log


def add_row(log: SummaryWriter, row: dict[str, float]) -> None:
    """Write the figures of one step and flush: they must survive a training that ends in an error."""
    for name, value in row.items():
        if name != "step":
            log.add_scalar(name, value, int(row["step"]))
    log.flush()
