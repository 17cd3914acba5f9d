"""Where a user's files are kept between runs: prepared images, checkpoints, registered models, evaluations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from image_longitudinal.core.digest import SHORT
from image_longitudinal.models.pretrained import FOLDER as SHIPPED
from image_longitudinal.models.pretrained import PRETRAINED
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from image_longitudinal.storage.io.open import open_root

SHARED_REGISTRY = "IMAGE_LONGITUDINAL_REGISTRY"  # environment: fsspec URL of a registry that several machines share


@dataclass(frozen=True)
class Workspace:
    """A local folder with a subfolder for each kind; paths are named by the digest of what decides their content."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> Workspace:
        """The workspace in a folder, as an absolute path: tasks may run with another working directory."""
        return cls(Path(folder).absolute())

    def images(self, key: str) -> Path:
        """Folder of the prepared images with this key."""
        return self.root / "images" / key[:SHORT]

    def frames(self, key: str) -> Path:
        """Folder of the cleaned frames made with this key; a cache that may be deleted."""
        return self.root / "frames" / key[:SHORT]

    @property
    def sources(self) -> Path:
        """Where archives are extracted and downloads kept."""
        return self.root / "sources"

    def model(self, name: str) -> ModelVersion:
        """A registered model by version or alias; ``pretrained`` is bundled with the code.

        Raises:
            ModelError: see :meth:`Registry.get`.
        """
        return self.registry.add(open_root(SHIPPED)) if name == PRETRAINED else self.registry.get(name)

    def training(self, key: str) -> Path:
        """Folder of the checkpoints of the training with this key."""
        return self.root / "training" / key[:SHORT]

    def evaluation(self, key: str) -> Path:
        """Folder of the evaluation stage with this key."""
        return self.root / "evaluation" / key[:SHORT]

    @property
    def registry(self) -> Registry:
        """The model registry: in this workspace, and shared when the environment names an address."""
        return self.registry_at(os.environ.get(SHARED_REGISTRY))

    def registry_at(self, shared: str | None) -> Registry:
        """The model registry of this workspace, shared at an fsspec URL unless that is None or empty."""
        return Registry(self.root / "models", open_root(shared) if shared else None)
