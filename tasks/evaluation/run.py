"""How the stages of an evaluation run: where, on what, and how the files of a finished stage are found."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from prefect.tasks import Task

from image_longitudinal.core.config import ComputeConfig, Section
from image_longitudinal.core.digest import SHORT, digest_of, file_sha256
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import make_folder, replacing
from image_longitudinal.core.outputs import removing_empty_parents
from image_longitudinal.core.progress import Step, report
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.population import Design, PopulationModel
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.tasks.engine.cache_keys import cached_or_fresh
from image_longitudinal.tasks.shards.derivation import given_doses
from image_longitudinal.tasks.workspace import Workspace


class EvaluationRun(Section):
    """Where an evaluation runs and what it reads; no figure depends on it."""

    url: str
    workspace: str
    device: str
    workers: int

    @property
    def compute(self) -> ComputeConfig:
        """Where its networks compute: in one process."""
        return ComputeConfig(device=self.device, render_processes=1)

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return open_dataset(self.url)

    @property
    def model(self) -> PopulationModel:
        """The population model behind the outcomes."""
        return true_model(self.dataset.manifest)

    def encoder(self, regressor: str) -> ModelVersion | None:
        """The registered model whose encoder reads the images; None for the PCA regressor.

        Args:
            regressor: ``evaluation.latent_regressor``: auto, encoder or pca.

        Raises:
            ModelError: the encoder is asked for and the workspace does not have the model.
        """
        if regressor == "pca":
            return None
        name, registry = self.dataset.manifest.image.model, Workspace.at(self.workspace).registry
        exists = any(version.version == name for version in registry.versions())
        return registry.get(name) if exists or regressor == "encoder" else None


class StageFiles(Section):
    """The files of a finished stage: their folder, and the digest of each by name."""

    folder: str
    files: dict[str, str]

    @classmethod
    def of(cls, folder: Path, *names: str) -> Self:
        """Files of a folder, hashed."""
        return cls(folder=str(folder), files={name: file_sha256(folder / name) for name in names})

    @property
    def digest(self) -> str:
        """Changes with any file's name or content."""
        return digest_of(self.files)

    def intact(self) -> bool:
        """Whether every file exists with its digest."""
        paths = {self.path(name): digest for name, digest in self.files.items()}
        return all(path.exists() and file_sha256(path) == digest for path, digest in paths.items())

    def path(self, name: str) -> Path:
        """Where a file is."""
        return Path(self.folder) / name

    def array(self, name: str) -> NDArray[Any]:
        """An array as a read-only view of its file ``name.npy``."""
        return np.asarray(np.load(self.path(f"{name}.npy"), mmap_mode="r"))


class LevelFiles(Section):
    """The files of the stages of one level; ``resnet`` is None if the network is left out."""

    level: float
    population: StageFiles
    estimates: StageFiles
    predictions: StageFiles
    resnet: StageFiles | None
    scores: StageFiles


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as the whole of a .npy file; a link of that name is replaced, not followed."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        np.save(file, array)


def run_stage(
    stage: Task[Any, StageFiles],
    run: EvaluationRun,
    spec: Spec,
    level: float | None = None,
    **inputs: StageFiles | None,
) -> StageFiles:
    """Run a stage, or take its files from the cache if they are unchanged.

    The cache key is made of the digests of the spec and of the input files, and of the level.
    """
    key = digest_of(spec.digest, level, {name: files and files.digest for name, files in inputs.items()})
    folder = Workspace.at(run.workspace).evaluation(key)
    parameters: dict[str, Any] = inputs if level is None else {**inputs, "level": level}
    report(Step(stage.name if level is None else f"{stage.name} at association {level:g}"))
    with removing_empty_parents(folder / "files"):
        make_folder(folder)
        return cached_or_fresh(stage, StageFiles.intact, key=key, folder=folder, run=run, spec=spec, **parameters)


def true_model(manifest: RootManifest) -> PopulationModel:
    """The population model behind the outcomes of a data set, with its visits and doses."""
    outcomes = manifest.config.get("outcomes", {})
    if not isinstance(name := outcomes.get("model"), str):
        raise StorageError("this data set does not name its longitudinal model", where=manifest.name)
    model = get_model(name)
    return replace(model, design=Design(manifest.times, tuple(given_doses(manifest.doses))))


def default_output(manifest: RootManifest) -> Path:
    """Where the evaluation of a data set is written by default."""
    return Path("evaluations") / f"{manifest.name}-{manifest.identity[:SHORT]}"
