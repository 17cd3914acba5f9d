"""Event files that cannot be written end a training in an error that names the place."""

import shutil
import threading
from pathlib import Path

import pytest

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.training.event_log import EventLog, log_folder


def lose(folder: Path) -> None:
    """Put a file in the place of a folder: nothing can be written below it, not even by root."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("not a folder", encoding="utf-8")


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    lose(log_folder(tmp_path / "vae"))
    with pytest.raises(ModelError, match=r"cannot write the log.*vae\.tensorboard"):
        EventLog(tmp_path / "vae", [])


def train_and_lose_the_log(checkpoint: Path, steps: int) -> None:
    with EventLog(checkpoint, []) as log:
        log.write({"step": 0, "loss": 1.0})
        lose(log_folder(checkpoint))
        for step in range(1, steps):  # the thread that writes reports its error with a later row
            log.write({"step": step, "loss": 1.0})
        raise ZeroDivisionError


def test_a_log_that_is_lost_while_a_training_runs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # TensorBoard's thread ends with the error
    with pytest.raises(ModelError, match=r"cannot write the log.*vae\.tensorboard"):
        train_and_lose_the_log(tmp_path / "vae", 100)


def test_the_error_of_the_training_is_the_one_that_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train_and_lose_the_log(tmp_path / "vae", 1)
