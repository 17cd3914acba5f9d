"""The records of an evaluation, as ``evaluation.json`` holds them; an estimate is [value, low, high] there."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, field_serializer

from image_longitudinal.core.config import EvaluationConfig
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.evaluation.bootstrap import Estimate
from image_longitudinal.models.evaluation.design_checks import Check


class EvaluationRecord(BaseModel):
    """Base of these records: frozen, one JSON file each. A number may be NaN, such as a standard error not found."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def write(self, path: Path) -> None:
        """Write it as JSON, the whole file or none."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what :meth:`write` wrote."""
        return cls.model_validate_json(path.read_bytes())


class LatentReading(EvaluationRecord):
    """What read the latents from images, and its R² for each latent dimension on test images."""

    regressor: Literal["encoder", "pca"]
    r2: tuple[float, ...]


class PopulationEstimate(EvaluationRecord):
    """A fitted population: the values used, by name with standard errors, and those of FOCE and of the truth.

    ``mu``, ``omega`` (k, k) and ``error`` are the same values as arrays, on the scale of estimation.
    """

    method: str
    converged: bool
    message: str
    mu: tuple[float, ...]
    omega: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    true: dict[str, float]
    estimates: dict[str, tuple[float, float]] = {}
    foce: dict[str, float] = {}
    shrinkage: dict[str, float] = {}
    objective: float | None = None
    subjects: int | None = None


class InformedFit(EvaluationRecord):
    """Ω_r (k, k) of the image-informed model, and the mean objective per subject of each round."""

    omega: tuple[tuple[float, ...], ...]
    objectives: tuple[float, ...]


class EffectScores(EvaluationRecord):
    """Scores of one source of random effects at one level; ``of_...`` are fractions of another R²."""

    mse: Estimate
    r2: Estimate
    r2_each: tuple[Estimate, ...]
    mse_to_modes: Estimate
    r2_to_modes: Estimate
    of_nominal: Estimate
    of_realised: Estimate
    of_oracle: Estimate | None = None


class OutcomeScores(EvaluationRecord):
    """Squared error and negative log-likelihoods per subject at one source's random effects."""

    mse: Estimate
    nll_observed: Estimate | None = None
    nll_simulated: Estimate | None = None


class ForecastScores(EvaluationRecord):
    """Errors of later outcomes and of random effects after some visits; ``gain`` is the fraction the image removes."""

    visits: int
    outcomes_with_image: Estimate
    effects_with_image: Estimate
    outcomes_without: Estimate
    effects_without: Estimate
    gain: Estimate


class Coverage(EvaluationRecord):
    """Fraction of true effects inside central regions of N(g(x), Ω_r) that should hold the fraction ``nominal``."""

    nominal: float
    each: tuple[Estimate, ...]
    joint: Estimate


class LevelScores(EvaluationRecord):
    """Everything measured at one association level, on its test subjects."""

    level: float
    subjects: int
    variance: float
    ceiling: Estimate
    effects: dict[str, EffectScores]
    outcomes: dict[str, OutcomeScores]
    forecasts: tuple[ForecastScores, ...] = ()
    calibration: tuple[Coverage, ...] = ()
    population: PopulationEstimate | None = None
    objectives: tuple[float, ...] = ()


class DesignChecks(EvaluationRecord):
    """All checks of a data set against its design, judged together."""

    checks: tuple[Check, ...]


class NullCheck(EvaluationRecord):
    """R² of each predictor, with its 99 % interval, after images were assigned to subjects at random."""

    level: float
    r2: dict[str, Estimate]

    @property
    def passed(self) -> bool:
        """Whether no predictor found anything."""
        return all(one.low <= 0 for one in self.r2.values())

    @field_serializer("r2")
    def _named(self, r2: dict[str, Estimate]) -> dict[str, dict[str, float]]:
        return {name: one._asdict() for name, one in r2.items()}


class EvaluatedDataset(EvaluationRecord):
    """The data set that was evaluated."""

    name: str
    identity: str
    url: str


class Evaluation(EvaluationRecord):
    """A whole evaluation: the content of ``evaluation.json``."""

    dataset: EvaluatedDataset
    settings: EvaluationConfig
    latent_reading: LatentReading
    levels: tuple[LevelScores, ...]
    checks: tuple[Check, ...]
    null: NullCheck
    key: str | None = None  # digest of the evaluation's spec; None before version 0.2

    @property
    def failed(self) -> list[Check]:
        """The checks of the design that failed."""
        return [check for check in self.checks if not check.passed]
