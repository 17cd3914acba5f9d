"""The spec of each stage: the settings that decide its product. Its input files enter by their own digests."""

from typing import ClassVar, Self

from image_longitudinal.core.config import EvaluationConfig, ResNetConfig, Section
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.specs import Spec


class StageSpec(Spec):
    """Base of the stages' specs; ``dataset`` is the identity of the data set."""

    code_version: ClassVar[int] = 10  # of all stages: raise it when the same data set and settings give other figures

    dataset: str


class ReadingSpec(StageSpec):
    """Latents read from images: by the encoder with this digest, or by a PCA regressor of this size."""

    product: ClassVar[str] = "latent-reading"
    encoder: str | None
    components: int | None
    products: int | None


class PopulationFitSpec(StageSpec):
    """The population of a level; ``fit_subjects`` is None for the known one."""

    product: ClassVar[str] = "level-population"
    method: str
    fit_subjects: int | None


class EstimateSpec(StageSpec):
    """Empirical Bayes estimates."""

    product: ClassVar[str] = "level-estimates"


class PredictorSpec(StageSpec):
    """Predictions from image features."""

    product: ClassVar[str] = "level-predictions"
    rounds: int
    folds: int


class ResNetSpec(StageSpec):
    """Predictions of the ResNet18."""

    product: ClassVar[str] = "level-resnet"
    network: ResNetConfig


class ScoreSpec(StageSpec):
    """The scores of a level."""

    product: ClassVar[str] = "level-scores"
    bootstrap: int
    visits: tuple[int, ...]


class DesignCheckSpec(StageSpec):
    """The checks of a data set against its design."""

    product: ClassVar[str] = "design-checks"
    levels: tuple[float, ...]
    residual_subjects: int


class NullCheckSpec(PredictorSpec):
    """Predictors of images assigned to subjects at random."""

    product: ClassVar[str] = "null-check"
    bootstrap: int


class EvaluationSpec(Section):
    """The specs of all stages; ``resnet`` is None if the network is left out."""

    reading: ReadingSpec
    population: PopulationFitSpec
    estimates: EstimateSpec
    predictors: PredictorSpec
    resnet: ResNetSpec | None
    scores: ScoreSpec
    design: DesignCheckSpec
    null: NullCheckSpec

    @property
    def digest(self) -> str:
        """Changes with the digest of any stage."""
        return digest_of({name: part.digest for name, part in self if isinstance(part, Spec)})

    @classmethod
    def of(cls, dataset: str, settings: EvaluationConfig, levels: tuple[float, ...], encoder: str | None) -> Self:
        """Specs of the evaluation of ``levels`` of the data set with identity ``dataset``.

        ``encoder`` is the digest of the registered model whose encoder reads the images; None for the PCA regressor.
        """
        size = (settings.components, settings.products) if encoder is None else (None, None)
        fit_subjects = None if settings.population == "known" else settings.fit_subjects
        rounds, folds, bootstrap = settings.rounds, settings.folds, settings.bootstrap
        return cls(
            reading=ReadingSpec(dataset=dataset, encoder=encoder, components=size[0], products=size[1]),
            population=PopulationFitSpec(dataset=dataset, method=settings.population, fit_subjects=fit_subjects),
            estimates=EstimateSpec(dataset=dataset),
            predictors=PredictorSpec(dataset=dataset, rounds=rounds, folds=folds),
            resnet=ResNetSpec(dataset=dataset, network=settings.resnet) if settings.resnet.steps else None,
            scores=ScoreSpec(dataset=dataset, bootstrap=bootstrap, visits=settings.visits),
            design=DesignCheckSpec(dataset=dataset, levels=levels, residual_subjects=settings.residual_subjects),
            null=NullCheckSpec(dataset=dataset, rounds=rounds, folds=folds, bootstrap=bootstrap),
        )
