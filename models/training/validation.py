"""Validation during training: when it is due, which weights were best, and when to stop waiting for better ones."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from image_longitudinal.models.training.checkpoints import History
from image_longitudinal.models.training.tensor_files import save_tensors


def best_weights_path(checkpoint: Path) -> Path:
    """Where the weights with the least validation error are kept; the checkpoint holds the last ones."""
    return checkpoint.with_name(f"{checkpoint.name}.best")


@dataclass(frozen=True)
class ValidationTracker:
    """Keeps the best weights and decides when to stop early. Its only state is the training's history.

    Args:
        path: file of the best weights.
        every: steps between validations; 0 for none.
        patience: validations without a new best after which training stops; 0 for never.
        history: of the training; rows with ``validation`` are read.
    """

    path: Path
    every: int
    patience: int
    history: History

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
            save_tensors(self.path, network.state_dict(), {"step": str(step + 1), "validation": repr(error)})
        return {"step": step, "validation": error}
