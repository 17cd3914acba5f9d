"""What the shard tasks are told: everything that decides a data set, as one frozen document."""

from __future__ import annotations

from pathlib import Path

from image_longitudinal.core.config import EXECUTION_SECTIONS, ComputeConfig, Config, Section
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.models.nlme.library import model_content
from image_longitudinal.tasks.workspace import Workspace

GENERATION_VERSION = 1  # raise it whenever the same configuration and model would give other data


class DatasetSpec(Section):
    """A data set to be made: configuration, model and the entries that become η. Paths and digests, no arrays."""

    config: Config
    workspace: str
    model_version: str | None  # of the registry; None for the phantom
    model_digest: str  # of everything that decides a pixel
    image_size: int
    latent_dim: int
    entries: tuple[int, ...]

    @property
    def plan(self) -> ShardPlan:
        """Which subjects are in which shard and split."""
        dataset = self.config.dataset
        return ShardPlan(dataset.n_subjects, dataset.shard_size, dataset.validation_fraction, dataset.test_fraction)

    @property
    def identity(self) -> str:
        """Digest of all that decides a byte of the data set; where it runs and how wide does not."""
        decisive = self.config.model_dump(mode="json", exclude=set(EXECUTION_SECTIONS))
        outcome_model = model_content(self.config.outcomes.model)
        return digest_of("dataset", GENERATION_VERSION, decisive, outcome_model, self.model_digest, self.entries)

    @property
    def compute(self) -> ComputeConfig:
        """Where it is made."""
        return self.config.compute

    @property
    def files(self) -> Workspace:
        """The user's workspace."""
        return Workspace(Path(self.workspace))
