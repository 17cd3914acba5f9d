"""What decides a data set and its parts (specs), and how a run computes them (:class:`Execution`)."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from image_longitudinal.core.config import (
    ComputeConfig,
    Config,
    GeneratorConfig,
    OutcomesConfig,
    ProbeConfig,
    ReportConfig,
    Section,
)
from image_longitudinal.core.plan import Shard, ShardPlan, SplitRange
from image_longitudinal.core.specs import Spec
from image_longitudinal.core.study_config import StudyConfig
from image_longitudinal.models.imaging.backends import GeneratorDescription
from image_longitudinal.models.nlme.library import model_content
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.workspace import Workspace


class SiteSpec(Section):
    """What decides the site of a subject, and with it how the subject's image is acquired."""

    study: StudyConfig
    outcomes: OutcomesConfig
    outcome_model: str  # its content, as in OutcomeSpec
    level: float
    eta_dims: tuple[int, ...]


class ImageSpec(Spec):
    """Images and latents of the subjects ``start <= id < stop``: of a whole data set, or of one of its shards."""

    product = "images"
    code_version = 4  # raise it whenever the same spec would give other image files
    added = frozenset({"sites"})

    generator: str  # digest of everything that decides a pixel: weights, solver, steps, code version
    image_size: int
    latent_dim: int
    batch_size: Literal["auto"] | int  # decides the last bits of a network's arithmetic
    seed: int
    shard_size: int
    start: int
    stop: int
    sites: SiteSpec | None = None  # None: images stay as generated

    @classmethod
    def of(cls, config: Config, described: GeneratorDescription) -> Self:
        """All images of the data set that ``config`` describes."""
        return cls(
            generator=described.digest, image_size=described.image_size, latent_dim=described.latent_dim,
            batch_size=config.generator.batch_size, seed=config.seed, shard_size=config.dataset.plan.shard_size,
            start=0, stop=config.dataset.n_subjects,
        )  # fmt: skip

    def at_sites(self, outcomes: "OutcomeSpec") -> Self:
        """These images as the sites of a study design acquire them."""
        study = outcomes.study
        if not study.shifts_images:
            return self
        if study.shortcut.to == "nothing":  # sites depend on nothing else: other knobs leave the images as they are
            study = StudyConfig(sites=study.sites)
        there = SiteSpec(
            study=study, outcomes=outcomes.outcomes if study.shortcut.to != "nothing" else OutcomesConfig(),
            outcome_model=outcomes.outcome_model if study.shortcut.to != "nothing" else "",
            level=outcomes.association[0], eta_dims=outcomes.eta_dims if study.shortcut.to != "nothing" else (),
        )  # fmt: skip
        return self.model_copy(update={"sites": there})

    @property
    def as_generated(self) -> Self:
        """These images before any site acquires them."""
        return self.model_copy(update={"sites": None})

    def of_shard(self, shard: Shard) -> Self:
        """The images of one shard."""
        return self.model_copy(update={"start": shard.start, "stop": shard.stop})

    @property
    def shard(self) -> Shard:
        """The shard, if this is the spec of one. Its splits are empty: they do not change an image."""
        return Shard(self.start // self.shard_size, self.start, self.stop, ())


class OutcomeSpec(Spec):
    """Tables of subjects at every association level: of a whole data set, or of one of its shards."""

    product = "outcomes"
    code_version = 5  # raise it whenever the same spec would give other tables
    added = frozenset({"study"})

    latent_dim: int
    eta_dims: tuple[int, ...]  # latent dimensions that become the random effects
    association: tuple[float, ...]
    outcomes: OutcomesConfig
    outcome_model: str  # content of the longitudinal model: its name, or the digest of the user's file
    licence: str  # stated in every file
    seed: int
    shard_size: int
    splits: tuple[SplitRange, ...]
    study: StudyConfig = StudyConfig()

    @classmethod
    def of(cls, config: Config, latent_dim: int, eta_dims: tuple[int, ...]) -> Self:
        """All tables of the data set that ``config`` describes."""
        plan = config.dataset.plan
        return cls(
            latent_dim=latent_dim, eta_dims=eta_dims, association=config.dataset.association, outcomes=config.outcomes,
            outcome_model=model_content(config.outcomes.model), licence=config.dataset.licence, seed=config.seed,
            shard_size=plan.shard_size, splits=replace(plan, shard_size=plan.n_subjects).shard(0).splits,
            study=config.study,
        )  # fmt: skip

    def of_shard(self, shard: Shard) -> Self:
        """The tables of one shard."""
        return self.model_copy(update={"splits": shard.splits})

    @property
    def shard(self) -> Shard:
        """The shard, if this is the spec of one."""
        start, stop = self.splits[0].start, self.splits[-1].stop
        return Shard(start // self.shard_size, start, stop, self.splits)


class DatasetSpec(Spec):
    """A data set: images, outcomes and the facts that its manifest, card and report state.

    Its digest is the identity of the data set.
    """

    product = "dataset"
    code_version = 2  # raise it whenever the same configuration and model would give another data set
    added = frozenset({"report"})

    images: ImageSpec
    outcomes: OutcomeSpec
    plan: ShardPlan
    probe: ProbeConfig  # how the recoverability in the report is measured
    backend: str
    model: str  # registered version, or the backend's name if it needs none
    name: str
    date: str | None
    report: ReportConfig = ReportConfig()

    @classmethod
    def of(cls, config: Config, images: ImageSpec, outcomes: OutcomeSpec, version: ModelVersion | None) -> Self:
        """The data set that ``config`` describes, with images of a registered model version."""
        dataset, backend = config.dataset, config.generator.backend
        return cls(
            images=images.at_sites(outcomes), outcomes=outcomes, plan=dataset.plan, probe=config.probe, backend=backend,
            model=version.version if version else backend, name=dataset.name, date=dataset.date, report=config.report,
        )  # fmt: skip

    def shard_keys(self, shard: Shard) -> dict[str, str]:
        """Digest of each part of a shard, as its manifest records them."""
        return {"image": self.images.of_shard(shard).digest, "outcomes": self.outcomes.of_shard(shard).digest}


class Execution(Section):
    """Where a run finds the image model, and where and how wide it computes. Decides no byte of a data set.

    ``generator`` is how the model is sampled; what of it decides a pixel is in :attr:`ImageSpec.generator`.
    """

    workspace: str
    generator: GeneratorConfig
    model_version: str | None  # of the registry; None for the phantom
    compute: ComputeConfig = ComputeConfig()

    @classmethod
    def of(cls, config: Config, version: ModelVersion | None, workspace: Workspace) -> Self:
        """The execution that ``config`` describes."""
        name, root = version.version if version else None, str(workspace.root)
        return cls(workspace=root, generator=config.generator, model_version=name, compute=config.compute)

    def version(self) -> ModelVersion | None:
        """The registered model that generates the images, if they come from one.

        Raises:
            ModelError: the workspace does not have it.
        """
        return Workspace(Path(self.workspace)).registry.get(self.model_version) if self.model_version else None
