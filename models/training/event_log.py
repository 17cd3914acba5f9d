"""The figures of a training as TensorBoard's event files, for people: no code reads them again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from image_longitudinal.core.errors import ModelError, writing_advice
from image_longitudinal.models.registry.metadata import History


def log_folder(checkpoint: Path) -> Path:
    """The folder of TensorBoard's event files of a training with this checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.tensorboard")


class EventLog:
    """New event files that start with the checkpoint's history: a resumed training shows as one curve.

    Raises:
        ModelError: from every method, if the files cannot be written. TensorBoard writes in a thread of its own, so an
            error may come with a later row than the one that failed.
    """

    def __init__(self, checkpoint: Path, history: History) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: it takes a second to import

        self._folder = log_folder(checkpoint)
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._naming_errors():
            self._writer = SummaryWriter(str(self._folder))
        for row in history:
            self.write(row)

    def write(self, row: dict[str, float]) -> None:
        """Write the figures of one step and flush: they must survive a training that ends in an error."""
        with self._naming_errors():
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(row["step"]))
            self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._naming_errors():
                self._writer.close()
        else:  # the error of the body is the one to report
            with suppress(OSError):
                self._writer.close()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ModelError(
                "cannot write the log of the training", where=self._folder, got=error, do=writing_advice(error)
            ) from error
