"""What the evaluation's stages are told: which data set, how, and where results lie. Paths and digests, no arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from image_longitudinal.core.config import ComputeConfig, EvaluationConfig, Section
from image_longitudinal.core.digest import SHORT
from image_longitudinal.core.errors import StorageError
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.population import Design, PopulationModel
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.tasks.engine.cache_keys import key_of
from image_longitudinal.tasks.shards.derivation import given_doses
from image_longitudinal.tasks.workspace import Workspace

EVALUATION_VERSION = 8  # raise it whenever the same data set and settings would give other figures
FEWEST = {"train": 40, "test": 8}  # subjects without which there is nothing to learn from, or to score

# Where the published fit began (arXiv 2410.16177); other models begin at their own typical values.
STARTS = {"depot-central-mm": PopulationParameters(np.log([1.0, 1.1, 0.6]), 0.2 * np.eye(3), np.array([0.1, 0.0, 1.0]))}


class EvaluationSpec(Section):
    """One evaluation of one data set."""

    url: str
    identity: str  # of the data set
    settings: EvaluationConfig
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
    def levels(self) -> tuple[float, ...]:
        """The association levels evaluated."""
        return self.settings.levels or self.dataset.levels

    def own_model(self) -> ModelVersion | None:
        """The registered model that made the images, where the workspace has it and the settings allow its encoder.

        Raises:
            ModelError: the settings ask for it and it is not there.
        """
        if self.settings.reader == "polynomial":
            return None
        name, registry = self.dataset.manifest.image.model, Workspace.at(self.workspace).registry
        there = any(version.version == name for version in registry.versions())
        return registry.get(name) if there or self.settings.reader == "model" else None

    @property
    def reader_digest(self) -> str | None:
        """Digest of the registered model whose encoder reads the images; None for the polynomial reader."""
        version = self.own_model()
        return version.digest if version else None

    def key(self, stage: str, *names: str, **more: Any) -> str:
        """Key of a stage: the data set and those settings, by name, that decide its result."""
        decisive = {name: getattr(self.settings, name) for name in names}
        return key_of(stage, EVALUATION_VERSION, dataset=self.identity, settings=decisive, **more)

    def folder(self, key: str) -> Path:
        """Where the stage with this key leaves its files."""
        return Workspace.at(self.workspace).evaluation(key)

    @property
    def model(self) -> PopulationModel:
        """The population model behind the outcomes, with the data set's visits and doses."""
        manifest = self.dataset.manifest
        known = get_model(manifest.config["outcomes"]["model"])
        return replace(known, design=Design(manifest.times, tuple(given_doses(manifest.doses))))


def default_output(manifest: RootManifest) -> Path:
    """Where the evaluation of a data set goes if nothing is said."""
    return Path("evaluations") / f"{manifest.name}-{manifest.identity[:SHORT]}"


def start_of(model: PopulationModel) -> PopulationModel:
    """Where the fit begins: the published values, or the model's own with small effects and a large residual error."""
    own = PopulationParameters.of(model)
    doubled = (own.error.reshape(-1, 3) * [2.0, 2.0, 1.0]).ravel()
    return STARTS.get(model.name, PopulationParameters(own.mu, 0.5 * own.omega, doubled)).into(model)


def check_is_evaluable(dataset: Dataset, settings: EvaluationConfig) -> None:
    """Refuse a data set that lacks what an evaluation needs; StorageError names it."""
    visits = dataset.manifest.config.get("outcomes", {})
    if irregular := [name for name in ("jitter", "missed", "dropout") if visits.get(name)]:
        raise StorageError(
            "an evaluation compares subjects visit by visit, and these have visits of their own",
            where=dataset.root.url,
            expected="outcomes without jitter, missed and dropout",
            got=", ".join(f"{name} {visits[name]:g}" for name in irregular),
            do="fit a level: image-longitudinal fit; or make a data set with regular visits",
        )
    for split, fewest in FEWEST.items():
        count = dataset.manifest.splits.get(split, 0)
        if count < fewest:
            raise StorageError(
                f"too few {split} subjects to evaluate",
                where=dataset.root.url,
                expected=f"at least {fewest}",
                got=count,
                do="make a data set with a larger dataset.n_subjects or dataset.test_fraction",
            )
    missing = [level for level in settings.levels or () if level not in dataset.levels]
    if missing:
        known = ", ".join(map(str, dataset.levels))
        raise StorageError("no such association level in this data set", expected=f"some of {known}", got=missing)
