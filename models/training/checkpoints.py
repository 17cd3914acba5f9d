"""Checkpoints of a training, all it needs to resume and end in the same bits, and validation for the best weights."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.registry.metadata import History
from image_longitudinal.models.training.tensor_files import DamagedTensorsError, load_checked, save_checked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """What changes during training: weights, their moving average, the optimizer's moments, the scaler of fp16."""

    model: nn.Module
    averaged: AveragedModel | None
    optimizer: Any
    scaler: Any

    def save(self, path: Path, step: int, history: History) -> None:
        """Write the state before ``step``, the number of finished steps, atomically.

        Raises:
            ModelError: the file cannot be written.
        """
        tensors = {f"model/{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged/{key}": value for key, value in self.averaged.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
        metadata = {"step": str(step), "history": json.dumps(history)}
        if self.scaler is not None:  # fp16: the factor that keeps small gradients from vanishing, and its count
            metadata["scaler"] = json.dumps(self.scaler.state_dict())
        save_checked(path, tensors, metadata)

    def restore(self, path: Path, name: str) -> tuple[int, History]:
        """Load a checkpoint of the ``name`` network, if there is one; returns the finished steps and the history.

        Without one, and with one that is damaged or whose best weights are, nothing is loaded: training starts anew.

        Raises:
            ModelError: the file belongs to another network or other settings.
        """
        if not path.exists():
            return 0, []
        try:
            tensors, metadata = load_checked(path)
            if any("validation" in row for row in json.loads(metadata.get("history", "[]"))):
                load_checked(best_weights_path(path))
        except DamagedTensorsError as error:
            logger.warning("training %s starts from the beginning: %s", name, error)
            return 0, []
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "optimizer": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        try:
            for key, value in tensors.items():
                part, rest = key.split("/", 1)
                parts[part][rest] = value
            for key, value in parts["optimizer"].items():
                index, moment = key.split("/")
                moments.setdefault(int(index), {})[moment] = value
            self.model.load_state_dict(parts["model"])
            if self.averaged is not None:
                self.averaged.load_state_dict(parts["averaged"])
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
            if self.scaler is not None and "scaler" in metadata:
                self.scaler.load_state_dict(json.loads(metadata["scaler"]))
            return int(metadata["step"]), json.loads(metadata["history"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"the checkpoint does not fit the {name} network", where=path, do="delete it to train from the start"
            ) from error


def load_initial_weights(name: str, model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Replace random initial weights by those of an earlier model.

    Raises:
        ModelError: they belong to another architecture.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"the {name} network cannot start from these weights: its architecture differs",
            got=str(error).splitlines()[-1],
            do="train from random weights (start=afresh), or configure the architecture of the production model",
        ) from error


def best_weights_path(checkpoint: Path) -> Path:
    """Where the weights with the least validation error are kept; the checkpoint holds the last ones."""
    return checkpoint.with_name(f"{checkpoint.name}.best")


@dataclass(frozen=True)
class ValidationTracker:
    """Keeps the best weights and decides when to stop early. Its only state is the training's history."""

    path: Path  # of the best weights
    every: int  # steps between validations; 0 for none
    patience: int  # validations without a new best after which training stops; 0 for never
    history: History  # rows with ``validation`` are read

    @property
    def errors(self) -> list[float]:
        """All validation errors so far."""
        return [row["validation"] for row in self.history if "validation" in row]

    @property
    def should_stop(self) -> bool:
        """Whether the last ``patience`` validations brought no new best."""
        errors = self.errors
        return bool(self.patience and errors and len(errors) - 1 - errors.index(min(errors)) >= self.patience)

    def is_due(self, step: int, last: bool) -> bool:
        """Whether to validate after ``step``; always after the last one."""
        return bool(self.every) and ((step + 1) % self.every == 0 or last)

    def record(self, step: int, error: float, network: nn.Module, write: bool) -> dict[str, float]:
        """The history row of a validation; saves the weights if they are the best and ``write`` is set."""
        if write and (not self.errors or error < min(self.errors)):
            save_checked(self.path, network.state_dict(), {"step": str(step + 1), "validation": repr(error)})
        return {"step": step, "validation": error}
