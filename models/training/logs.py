"""A training's figures as TensorBoard event files: one folder per network, beside its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType


class TrainingLog:
    """Event files of one training, written by one process; a context manager.

    Existing event files are replaced by the history of the checkpoint, so a training that was killed and resumed shows
    as one curve.

    Args:
        folder: where the event files go.
        history: figures so far, as :func:`models.training.loop.train` keeps them; each row has its ``step``.
    """

    def __init__(self, folder: Path, history: list[dict[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for row in history:
            self.add(row)

    def add(self, row: dict[str, float]) -> None:
        """Write the figures of one step and flush: they must survive a training that ends in an error."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def log_folder(checkpoint: Path) -> Path:
    """The folder of event files of a training with this checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.tensorboard")
