"""Options of the flows ``fit-table`` and ``simulate-table``, shared by flow, command line and task."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from image_longitudinal.core.config import Section
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.specs import Spec
from image_longitudinal.models.nlme.data.nmtran_writer import Dialect
from image_longitudinal.models.nlme.data.reading import Interpolation
from image_longitudinal.models.nlme.data.text_files import Decimal
from image_longitudinal.models.nlme.model.dosing import Dose

S = TypeVar("S", bound=Section)
ENDPOINTS: Any = Field(
    {}, description="Value in DVID (or in CMT, without DVID) of each endpoint's observations, such as cp 2."
)
DECIMAL: Any = Field(".", description="Decimal mark of a text file: . or a comma.")
ImageModelKind = Literal["linear", "mlp", "cnn"]
Method = Literal["fo", "foce", "focei", "laplace", "agq", "imp", "saem", "nuts"]


class FitSettings(Section):
    """Settings that decide a fit of a given table and model."""

    method: Method = Field(
        "focei",
        description="imp, saem, agq: maximum likelihood by importance sampling, stochastic approximation EM or "
        "adaptive Gauss-Hermite quadrature; nuts: full Bayes. The others approximate each individual posterior by a "
        "Gaussian around one mode, and are biased where it has several, as with depot-central-mm (typical values by "
        "8 % at 10,000 subjects).",
    )
    level: float | None = Field(None, description="Association level of a published data set.")
    split: str | None = Field(None, description="Split of a published data set; all splits without one.")
    covariates: Interpolation = Field(
        "locf", description="Covariates between rows: last value carried forward, next one carried backward, or linear."
    )
    subjects: int | None = Field(None, ge=1, description="Fit only the first so many; EBEs are computed for all.")
    omega: str = Field(
        "full",
        description="Structure of the random effects' covariance: full, diagonal, blocks (those of the start values), "
        "or blocks by names of parameters, such as 'cl,v ka'.",
    )
    fixed: tuple[str, ...] = Field(
        (),
        description="Held at the start value: parameters, omega, residual, one variance (eta_ka) or sigma2_additive.",
    )
    covariance: Literal["sandwich", "hessian", "gradient", "none"] = Field("sandwich", description="Of the estimates.")
    start: dict[str, float] = Field(
        {},
        description="Start values in place of the model's: parameters by name, omega (every variance, covariances 0), "
        "additive and proportional (residual standard deviations).",
    )
    draws: int = Field(
        300,
        ge=50,
        description="Per subject, to begin with, for imp and saem; per chain for nuts, after as many to tune.",
    )
    order: int = Field(
        5, ge=1, le=31, description="Nodes per random effect of agq, which takes up to four; 1: laplace."
    )
    burn_in: int = Field(200, ge=1, description="Iterations of saem that explore.")
    smoothing: int = Field(150, ge=1, description="Iterations of saem that are averaged.")
    seed: int = Field(1, ge=0, description="Of imp, saem, nuts and simulated diagnostics.")


class FitOptions(FitSettings):
    """What to fit, and how."""

    table: str = Field(description="Text or Parquet file in NM-TRAN's columns, or the address of a published data set.")
    endpoints: dict[str, str] = ENDPOINTS
    decimal: Decimal = DECIMAL
    model: str = Field("depot-central-mm", description="Name of the population model; its values are the start.")
    model_file: str | None = Field(None, description="Python file that registers the model.")
    sdtab: Literal["parquet", "csv"] | None = Field(
        None, description="Also write sdtab.parquet or sdtab.csv: predictions, residuals and EBEs by observation."
    )
    stratify: tuple[str, ...] = Field(
        (),
        description="Columns of the table (an arm, a covariate) by which predictive checks are also made, and within "
        "whose values a bootstrap draws subjects.",
    )
    bootstrap: int | None = Field(None, ge=2, description="Replicates of a bootstrap of the fit.")
    profile: tuple[str, ...] = Field(
        (), description="Estimates whose profile likelihood interval is made: cl, eta_cl (a variance), sigma2_additive."
    )
    sir: int | None = Field(
        None, ge=100, description="Draws of each iteration of sampling importance resampling of the estimates."
    )
    images: str | None = Field(
        None,
        description="Images of the subjects, to explain their random effects: a folder, a Zarr array, or a data set.",
    )
    image_list: str | None = Field(
        None, description="CSV or Parquet file with an id and an image in each row; names of files have ids without it."
    )
    id_column: str | None = Field(None, description="Its column of ids; alone: the list is in the folder of images.")
    image_model: ImageModelKind = Field(
        "linear",
        description="What random effects are predicted with: linear in principal components, mlp: a network of these, "
        "cnn: a network of pixels.",
    )
    image_encoder: str | None = Field(
        None, description="Registered model whose encoder reads features, in place of principal components."
    )
    image_learning: Literal["likelihood", "two-step"] = Field(
        "likelihood",
        description="likelihood: images are learned within the marginal likelihood; two-step: by regression on "
        "empirical Bayes estimates.",
    )
    permutations: int = Field(19, ge=0, description="Of images over subjects, to see what a fit finds in noise.")
    workspace: str = Field("workspace", description="Folder with the registered models.")


class CovariateOptions(FitOptions):
    """A stepwise search of relations with covariates, and how each model is fitted."""

    candidates: tuple[str, ...] = Field(
        description="PARAMETERS:COVARIATES:KINDS, such as cl,v:weight:power; kinds: power, exponential, linear, "
        "categorical."
    )
    forward: float = Field(0.05, gt=0, lt=1, description="A relation is added if p is below this.")
    backward: float = Field(0.01, gt=0, lt=1, description="A relation is removed if p is this or above.")


class FitSpec(FitSettings, Spec):
    """All that decides a fit: its digest is the fit's cache key."""

    product: ClassVar[str] = "population-fit"
    code_version: ClassVar[int] = 2
    added: ClassVar[frozenset[str]] = frozenset({"order", "burn_in", "smoothing", "sampler"})

    table_content: str  # digest of the file, or identity of the data set
    model_content: str  # name of a library model, or name and SHA-256 of the user's file
    sampler: int = 1  # version of importance sampling; fits by imp are those of version 2


class ImageSpec(Spec):
    """All that decides what images explain in a finished fit."""

    product: ClassVar[str] = "image-effects"
    code_version: ClassVar[int] = 1

    fit: str  # the fit's key
    content: str  # digest of what decides the images
    encoder: str | None  # digest of the model that reads features
    image_model: ImageModelKind
    image_learning: str
    permutations: int
    seed: int


class PredictOptions(Section):
    """New subjects to predict by a fit with images."""

    fit: str = Field(description="Folder of a fit with images.")
    images: str = Field(description="Pictures of new subjects, as for a fit.")
    table: str | None = Field(None, description="Table of their first visits.")
    visits: int | None = Field(None, ge=1, description="Use the first so many observations of each subject.")
    image_list: str | None = Field(None, description="As for a fit.")
    id_column: str | None = Field(None, description="As for a fit.")
    covariates: Interpolation = Field("locf", description="Covariates between rows.")
    endpoints: dict[str, str] = ENDPOINTS
    decimal: Decimal = DECIMAL
    workspace: str = Field("workspace", description="Folder with the registered models.")
    model_file: str | None = Field(None, description="Python file that registers the fit's model.")


class SimulateOptions(Section):
    """A trial to simulate: its own design, or the events of a table."""

    model: str = Field("depot-central-mm", description="Name of the population model.")
    model_file: str | None = Field(None, description="Python file that registers the model.")
    values: dict[str, float] = Field({}, description="Values in place of the model's, such as imax 1.1, omega 0.2.")
    fit: str | None = Field(None, description="Folder of a fit: its model with the estimates, in place of ``model``.")
    uncertainty: bool = Field(
        False, description="With a fit: draw the estimates once, by the seed, from their estimated distribution."
    )
    seed: int = Field(1, ge=0, description="Of random effects, covariates, visits and residual error.")
    dialect: Dialect = Field("nonmem", description="Column names and missing values of the table.")
    subjects: int = Field(100, ge=1, description="Number of subjects.")
    times: tuple[float, ...] | None = Field(None, description="Observation times; the model's without them.")
    doses: tuple[str, ...] = Field(
        (), description="TIME:AMOUNT[:COMPARTMENT[:DURATION]], such as 0:100:depot; the model's without them."
    )
    covariate_ranges: dict[str, tuple[float, float]] = Field({}, description="Drawn uniformly for each subject.")
    jitter: float = Field(0.0, ge=0, description="Visits are up to this much earlier or later; not those with a dose.")
    missed: float = Field(0.0, ge=0, lt=1, description="Probability of missing a visit, for each but the first.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of leaving before the last visit.")
    events: str | None = Field(None, description="Table of doses, covariates and times, not a design; DV is replaced.")
    covariates: Interpolation = Field("locf", description="Covariates between the rows of ``events``.")
    endpoints: dict[str, str] = ENDPOINTS
    decimal: Decimal = DECIMAL


def options_of(kind: type[S], values: Mapping[str, Any]) -> S:
    """Options from plain values; ConfigError names every unusable one."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors())
        raise ConfigError(f"unusable options: {'; '.join(problems)}") from error


def dose_of(text: str) -> Dose:
    """A dose written as TIME:AMOUNT[:COMPARTMENT[:DURATION]]; ConfigError if it cannot be read."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in (*parts[:2], *parts[3:])]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or len(parts) > 4:
        raise ConfigError("unreadable dose", expected="TIME:AMOUNT[:COMPARTMENT[:DURATION]]", got=repr(text))
    compartment: str | int = 1 if len(parts) < 3 else int(parts[2]) if parts[2].isdigit() else parts[2]
    return Dose(numbers[0], numbers[1], compartment, numbers[2] if len(numbers) == 3 else 0.0)
