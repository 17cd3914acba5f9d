"""The configuration: frozen, validated at construction, no unknown keys. The Prefect UI shows it as a form."""

import datetime
import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from image_longitudinal.core.doses import DoseConfig, Fraction, Positive, single_doses
from image_longitudinal.core.gates import GatesConfig
from image_longitudinal.core.names import FileName, Label
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.core.section import Section as Section
from image_longitudinal.core.study_config import StudyConfig

Level = Annotated[float, Field(gt=0, le=1)]
SolverName = Literal["ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "whitened", "centred", "euler", "heun"]


# YAML 1.1 reads an unquoted `no` as false and 2024-05-01 as a date; people write both without quotes.
def _precision_text(value: Any) -> Any:
    return "no" if value is False else value


def _date_text(value: Any) -> Any:
    return value.isoformat() if type(value) is datetime.date else value


MixedPrecision = Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_precision_text)]


PRECISION = "Data type of the networks' arithmetic in training; no: float32."
EMA = "Decay per step of the average of the weights, which is what is kept."
FREE_ROWS = 65_536  # rows of a shard whose index, 1 MiB, matters to nobody
EXECUTION_SECTIONS = frozenset({"compute", "evaluation"})  # sections of Config that do not change a data set


def _check_fractions(validation: float, test: float) -> None:
    if validation + test >= 1:
        raise ValueError(f"validation_fraction + test_fraction must stay below 1, got {validation + test:g}")


OddScans = Literal["cure", "refuse", "take"]  # what is done with scans that are not as expected


class ImagesConfig(Section):
    """Training images: real scans if a folder is given, phantoms otherwise."""

    n_phantoms: Positive = Field(4000, description="Phantom training images, if no folder of scans is given.")
    denoise: Literal["nlm", "bm3d", "none"] = Field(
        "nlm", description="Fast non-local means, or the original's BM3D (16 s a scan, non-commercial licence)."
    )
    odd_scans: OddScans = Field(
        "cure", description="Scans that are inverted, turned, written on or beside an infrared panel: cured; refused "
        "like files that show no single B-scan; or everything taken as it is.",
    )  # fmt: skip
    min_images: Positive = Field(40, description="With fewer usable scans the run stops with an error.")
    validation_fraction: Fraction = Field(0.1, description="Fraction of patients for validation curves.")
    test_fraction: Fraction = Field(0.1, description="Fraction of patients for the quoted model metrics.")

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        _check_fractions(self.validation_fraction, self.test_fraction)
        return self


class TrainingSection(Section):
    """Settings that the trainings of both networks share."""

    steps: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)
    mixed_precision: MixedPrecision = Field("no", description=PRECISION)
    gradient_accumulation: Positive = Field(1, description="Batches whose gradients make one step.")
    validate_every: int = Field(0, ge=0, description="Steps between validations, which keep the best weights; 0: none.")
    patience: int = Field(0, ge=0, description="Validations without improvement before training stops; 0: never.")


class PrivacyConfig(Section):
    """Differentially private training (DP-SGD, Abadi et al. 2016, arXiv 1607.00133); the unit is the patient.

    Each patient is in a step with probability ``vae.batch_size`` / patients, with one scan.
    """

    epsilon: float | None = Field(None, gt=0, description="ε of the whole training; sets the noise.")
    noise_multiplier: float | None = Field(
        None, ge=0.01, description="Standard deviation of the noise by max_grad_norm, in place of epsilon."
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="δ: must be well below 1 / patients.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm to which the gradient of each patient is clipped.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give either epsilon or noise_multiplier")
        return self


class VAEConfig(TrainingSection):
    """The variational autoencoder; defaults are the original's."""

    kind: Literal["convolutional", "flattened"] = Field(
        "convolutional",
        description="convolutional: the original's; flattened: explicit curve of the retina and principal components "
        "of the flattened image, fitted without training (uses image_size and latent_dim only).",
    )
    image_size: int = Field(224, ge=32, multiple_of=32, description="Side in pixels; the decoder doubles five times.")
    latent_dim: Positive = Field(128, description="Length of z.")
    width: float = Field(1.0, gt=0, le=4, description="Factor on all channel counts; 1 is the original.")
    steps: Positive = Field(500_000, description="About 30 epochs of the original's 84,000 training scans.")
    batch_size: int = Field(5, ge=2, description="Batch norm needs at least two.")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam.")
    kl_weight: float = Field(0.037558578, ge=0, description="β after warm-up.")
    kl_warmup_steps: int = Field(84_000, ge=0, description="β rises linearly over these steps (original: 5 epochs).")
    free_bits: float = Field(0.0, ge=0, description="Nats per dimension without KL penalty (Kingma et al. 2016).")
    cycle_weight: float = Field(0.0, ge=0, description="Weight of recovering z ~ N(0, I) from decode(z); original: 0.")
    vgg_weights: str | None = Field(None, description="Safetensors file of torchvision's VGG16; null: MS-SSIM.")
    dp: PrivacyConfig | None = Field(
        None, description="Differentially private training, with group in place of batch norm; needs the extra dp."
    )

    @model_validator(mode="after")
    def _is_private_as_a_whole(self) -> Self:
        """Refuse what would look at scans of several patients at once, or at scans without noise."""
        if self.dp is None:
            return self
        needed = {
            "kind": "convolutional", "cycle_weight": 0.0, "gradient_accumulation": 1, "mixed_precision": "no",
            "validate_every": 0,
        }  # fmt: skip
        if missing := [f"{name}={value}" for name, value in needed.items() if getattr(self, name) != value]:
            raise ValueError(f"dp needs {', '.join(missing)}: anything else looks at scans without noise")
        return self

    @model_serializer(mode="wrap")
    def _without_unused_dp(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``dp`` came later: without it, everything keeps its digest."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if name != "dp" or value is not None}


class DiffusionConfig(TrainingSection):
    """The diffusion model: a small residual or latent model, or a fine-tuned Stable Diffusion as in the original."""

    kind: Literal["residual", "latent", "stable-diffusion", "flattened"] = Field(
        "residual",
        description="On the VAE's residual, in a latent space, Stable Diffusion fine-tuned, or the detail of the "
        "flattened retina, for vae.kind flattened.",
    )
    image_size: int = Field(64, ge=32, multiple_of=32, description="Side in pixels of images.")
    channels: tuple[Positive, ...] = Field((64, 96), description="UNet levels of the trained models, multiples of 16.")
    objective: Literal["flow", "velocity"] = Field("flow", description="What the latent model predicts.")
    autoencoder: str | None = Field(None, description="Folder or hub name of a diffusers autoencoder; null: train one.")
    autoencoder_width: Positive = Field(32, description="Channels of the trained autoencoder.")
    autoencoder_levels: int = Field(3, ge=2, description="Of the trained one: each but the first halves the image.")
    autoencoder_steps: Positive = Field(2000, description="Training steps of the trained one.")
    autoencoder_learning_rate: float = Field(1e-3, gt=0, description="Of the trained one.")
    encoded_variants: Positive = Field(8, description="Augmented views of each image for training in latent space.")
    encoder_weight: float = Field(0.0, ge=0, description="Weight of recovering z from the predicted image by encoder.")
    unet: str | None = Field(None, description="Folder or hub name of a UNet to start from; null: that of pretrained.")
    pretrained: str = Field(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", description="Folder or hub name of the model to fine-tune."
    )
    steps: Positive = Field(115_000, description="Training steps.")
    batch_size: Positive = Field(4, description="Images per step of one process.")
    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW, at its peak.")
    learning_rate_decay: Literal["constant", "cosine"] = Field("constant", description="Course of the learning rate.")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description=EMA)
    min_snr_gamma: float | None = Field(5.0, gt=0, description="Cap of the min-SNR weights; null: equal weights.")
    noise_offset: float = Field(0.0, ge=0, description="Standard deviation of noise that a whole image shares.")

    @field_validator("channels")
    @classmethod
    def _channels_fit_group_norm(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not channels or any(count % 16 for count in channels):
            raise ValueError("each level needs a multiple of 16 channels (group normalisation), one level at least")
        return channels


class GeneratorConfig(Section):
    """How images are generated from latents."""

    backend: str = Field("diffusion", description="phantom, vae, diffusion, or a custom package.module:factory.")
    image_size: int = Field(64, ge=16, description="Side in pixels of phantom images; trained models have their own.")
    latent_dim: Positive = Field(16, description="Length of z for the phantom; trained models have their own.")
    scheduler: Literal[SolverName, "student"] = Field("ddim", description="Solver; student: the distilled network.")
    steps: Positive = Field(10, description="Solver steps for each image.")
    decoder: Literal["full", "light"] = Field("full", description="light: the distilled decoder, if the model has one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Data type of the network; the solver always uses float32."
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="Compile the network with torch.compile; auto: on CUDA. Changes only the last bits."
    )
    batch_size: Literal["auto"] | Positive = Field(
        "auto", description="Images per batch; auto: by device. Halved, with a warning, if memory does not suffice."
    )


class DistillationConfig(Section):
    """Distillation of a trained diffusion model: a few-step student, and a light decoder for Stable Diffusion."""

    student_steps: int = Field(20_000, ge=0, description="Training steps of the student; 0: none.")
    teacher_steps: int = Field(16, ge=2, le=1000, description="Solver steps of the teacher.")
    solver_steps: Positive = Field(3, description="Solver steps with which the student is measured.")
    decoder_steps: int = Field(20_000, ge=0, description="Of the light decoder (stable-diffusion only); 0: none.")
    decoder_width: Positive = Field(64, description="Channels of the light decoder (TAESD: 64).")
    batch_size: Positive = Field(32, description="Images per step.")
    learning_rate: float = Field(1e-4, gt=0, description="Of AdamW, at its peak.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description=EMA)
    mixed_precision: MixedPrecision = Field("no", description=PRECISION)


class ProbeConfig(Section):
    """How a trained model is measured, once: the solver of a data set does not decide which dimensions become η."""

    n_images: int = Field(512, ge=64, description="Images generated to measure how well z is recovered.")
    scheduler: SolverName = Field("ddim", description="Solver of the images that are measured.")
    steps: Positive = Field(10, description="Its steps for each image.")
    batch_size: Positive = Field(32, description="Images generated together.")
    noise_seeds: int = Field(3, ge=2, description="Noise seeds over which the spread of R² is measured.")
    reader: Literal["encoder", "network"] = Field(
        "encoder", description="What recovers z: the VAE's encoder, or a network trained for it on generated images."
    )
    reader_images: int = Field(14_000, ge=64, description="Generated training images of the network reader.")
    reader_steps: Positive = Field(1500, description="Training steps (batches of 64) of the network reader.")
    dinov2: str | None = Field(None, description="Local folder of a DINOv2 network, for metrics in its features.")


class OutcomesConfig(Section):
    """The longitudinal model and the visits."""

    model: str = Field("depot-central-mm", description="Name of a model in models/nlme.")
    times: tuple[float, ...] = Field(tuple(i / 2 for i in range(21)), min_length=1, description="Observation times.")
    doses: tuple[DoseConfig, ...] = Field((DoseConfig(),), description="Doses that every subject gets.")
    jitter: float = Field(
        0.0, ge=0, description="Visits are up to this much earlier or later, except the first and those with a dose."
    )
    missed: Fraction = Field(0.0, description="Probability of missing a visit, except the first.")
    dropout: Fraction = Field(0.0, description="Probability of dropping out, at a constant hazard.")

    @property
    def irregular(self) -> bool:
        """Whether visit times differ between subjects."""
        return bool(self.jitter or self.missed or self.dropout)

    @property
    def given(self) -> list[tuple[float, float, int, float]]:
        """Time, amount, compartment and rate of every single dose, by time."""
        return single_doses(self.doses)

    @field_validator("times")
    @classmethod
    def _times_ascend(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if times[0] < 0 or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError("times must start at 0 or later and ascend strictly")
        return times

    @model_validator(mode="after")
    def _visits_keep_their_order(self) -> Self:
        marks = sorted({*self.times, *(dose[0] for dose in self.given)})
        gap = min((b - a for a, b in itertools.pairwise(marks)), default=float("inf"))
        if self.jitter and not 2 * self.jitter < gap:
            raise ValueError(f"jitter must be below half the shortest time between visits and doses, {gap:g} / 2")
        return self


class DatasetConfig(Section):
    """The published data set."""

    name: FileName = Field("image-longitudinal-demo", description="Name in its card and manifest.")
    date: Annotated[str | None, BeforeValidator(_date_text)] = Field(
        None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="Date in the Croissant description."
    )
    licence: Label = Field("CC-BY-4.0", description="SPDX licence identifier.")
    n_subjects: Positive = Field(512, description="Subjects in all splits.")
    shard_size: Positive = Field(128, description="Subjects that are generated and written together.")
    association: tuple[Level, ...] = Field(
        (1.0, 0.5, 0.1, 0.0526, 0.02), min_length=1, description="ρ²: fraction of Var(η) that the image can explain."
    )
    eta_dims: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "auto", description="Latent dimensions (from 0) that become η; auto: the most recoverable ones."
    )
    validation_fraction: Fraction = Field(0.0, description="Subjects for choosing among one's models.")
    test_fraction: Fraction = Field(1 / 11, description="Held-out subjects; original: 100,000 of 1,100,000.")

    @property
    def plan(self) -> ShardPlan:
        """Which subjects belong to which shard and split.

        The index of a shard's file takes 16 bytes for each row that the shard could hold: a shard that is far larger
        than the data set is planned smaller.
        """
        size = min(self.shard_size, max(self.n_subjects, FREE_ROWS))
        return ShardPlan(self.n_subjects, size, self.validation_fraction, self.test_fraction)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_fractions(self.validation_fraction, self.test_fraction)
        if len(set(self.association)) != len(self.association):
            raise ValueError(f"association levels must differ from each other, got {list(self.association)}")
        if self.eta_dims != "auto" and len(set(self.eta_dims)) != len(self.eta_dims):
            raise ValueError(f"eta_dims must differ from each other, got {list(self.eta_dims)}")
        return self


class ReportConfig(Section):
    """What reports and artifacts show."""

    include_real_scans: bool = Field(
        False, description="Show real scans beside generated images: in report.html and in artifacts."
    )
    scans_licence: Label | None = Field(
        None, description="Licence under which the shown scans may be passed on; null: that of the data set."
    )


class ComputeConfig(Section):
    """Where to run and with how many workers; does not change the result, except the last bits of trained weights."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    concurrent_shards: Positive = Field(
        1, description="Shards at the same time, at least two per rendering device; work-pool: batches submitted."
    )
    render_processes: Literal["auto"] | Positive = Field(
        "auto", description="Processes that render; auto: one per accelerator if several. Training uses at most these."
    )
    training_threads: Positive = Field(
        2, description="CPU threads of a training process; another number gives weights with other last bits."
    )
    executor: Literal["threads", "work-pool"] = Field(
        "threads", description="What generates shards: threads of the run, or workers of the work pool shards."
    )


class ResNetConfig(Section):
    """The published ResNet18 that regresses empirical Bayes estimates on images."""

    steps: int = Field(0, ge=0, description="Maximum training steps per association level; 0: no network.")
    batch_size: Positive = Field(16, description="Batch size of the original.")
    width: float = Field(1.0, gt=0, le=4, description="Factor on its channel counts; 1 is ResNet18.")
    mixed_precision: MixedPrecision = Field("no", description=PRECISION)


class EvaluationConfig(Section):
    """How a published data set is evaluated; does not change the data set."""

    levels: tuple[Level, ...] | None = Field(None, description="Association levels to evaluate; null: all.")
    population: Literal["likelihood", "foce", "known"] = Field(
        "likelihood", description="Parameters: likelihood by importance sampling (unbiased), FOCE estimates, or truth."
    )
    fit_subjects: Positive = Field(2000, description="Training subjects fitted: evenly spaced where there are more.")
    latent_regressor: Literal["auto", "encoder", "pca"] = Field(
        "auto", description="Reads z from images: the model's encoder (auto: if the workspace has it), or fitted PCA."
    )
    components: Positive = Field(160, description="Principal components of the PCA regressor.")
    products: Positive = Field(40, description="Of these, components that also enter by their products.")
    folds: int = Field(5, ge=2, description="Of the cross-fit.")
    rounds: int = Field(6, ge=0, description="Most rounds of the image-informed model after the one-step correction.")
    resnet: ResNetConfig = ResNetConfig()
    bootstrap: int = Field(1000, ge=100, description="Bootstrap samples for each 95 % interval.")
    visits: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 4), description="Numbers of observed visits from which the rest is forecast."
    )
    residual_subjects: Positive = Field(5000, description="Subjects whose residuals are tested against the design.")

    @field_validator("visits")
    @classmethod
    def _visits_ascend(cls, visits: tuple[int, ...]) -> tuple[int, ...]:
        if not visits or any(b <= a for a, b in itertools.pairwise(visits)):
            raise ValueError("visits must be at least one number, ascending strictly")
        return visits


class Config(Section):
    """The whole configuration, from training images to evaluation."""

    seed: int = Field(1, ge=0, lt=2**63, description="Of everything that is drawn.")
    images: ImagesConfig = ImagesConfig()
    vae: VAEConfig = VAEConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    probe: ProbeConfig = ProbeConfig()
    distillation: DistillationConfig = DistillationConfig()
    generator: GeneratorConfig = GeneratorConfig()
    outcomes: OutcomesConfig = OutcomesConfig()
    study: StudyConfig = StudyConfig()
    dataset: DatasetConfig = DatasetConfig()
    report: ReportConfig = ReportConfig()
    gates: GatesConfig = GatesConfig()
    compute: ComputeConfig = ComputeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def recorded(self) -> dict[str, Any]:
        """What a data set records: JSON values of the sections that decide it.

        ``report``, ``gates`` and ``study`` came later, and are left out at their defaults: the same data sets have the
        same records.
        """
        later = ("report", "gates", "study")
        usual = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude={*EXECUTION_SECTIONS, *usual})
