"""The workspace: a folder for prepared images, checkpoints, registered models and evaluations between runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from image_longitudinal.core.digest import SHORT
from image_longitudinal.core.paths import folder_below
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from image_longitudinal.storage.io.open import open_root

SHARED_REGISTRY = "IMAGE_LONGITUDINAL_REGISTRY"  # environment: fsspec URL of a registry that several machines share


@dataclass(frozen=True)
class Workspace:
    """A local folder with a subfolder for each kind of file; paths contain the digest of what made the files.

    Every folder that it gives lies below it: StorageError if a link leads out of the workspace.
    """

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> Self:
        """The workspace in a folder, with an absolute path: tasks may have another working directory."""
        return cls(Path(folder).absolute())

    def images(self, key: str) -> Path:
        """Folder of the prepared images with this key."""
        return self._folder("images", key[:SHORT])

    def frames(self, key: str) -> Path:
        """Folder of the cleaned frames made with this key; a cache that may be deleted."""
        return self._folder("frames", key[:SHORT])

    @property
    def sources(self) -> Path:
        """Folder of downloads and extracted archives."""
        return self._folder("sources")

    def model(self, name: str) -> ModelVersion:
        """A registered model by version or alias, or a bundled one by its name.

        Raises:
            ModelError: see :meth:`Registry.get`.
        """
        return self.registry.add(open_root(BUNDLED[name])) if name in BUNDLED else self.registry.get(name)

    def training(self, key: str) -> Path:
        """Folder of the checkpoints of the training with this key."""
        return self._folder("training", key[:SHORT])

    def evaluation(self, key: str) -> Path:
        """Folder of the evaluation stage with this key."""
        return self._folder("evaluation", key[:SHORT])

    @property
    def registry(self) -> Registry:
        """The model registry of this workspace, connected to a shared one if the environment names it."""
        return self.registry_at(os.environ.get(SHARED_REGISTRY))

    def registry_at(self, shared: str | None) -> Registry:
        """The model registry of this workspace, shared at an fsspec URL unless that is None or empty."""
        return Registry(self._folder("models"), open_root(shared) if shared else None)

    def _folder(self, *names: str) -> Path:
        return folder_below(self.root, self.root.joinpath(*names))
