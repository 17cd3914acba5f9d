"""Where a user's own files lie between runs: prepared images, checkpoints, registered models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.digest import SHORT
from models.registry import Registry


@dataclass(frozen=True)
class Workspace:
    """A local folder with three rooms; every path below it is named by the digest of what made it."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> Workspace:
        """The workspace in a folder, as an absolute path: tasks may run with another working directory."""
        return cls(Path(folder).absolute())

    def images(self, key: str) -> Path:
        """Folder of the prepared images with this key."""
        return self.root / "images" / key[:SHORT]

    def training(self, key: str) -> Path:
        """Folder of the checkpoints of the training with this key."""
        return self.root / "training" / key[:SHORT]

    @property
    def registry(self) -> Registry:
        """The model registry."""
        return Registry(self.root / "models")
