"""The configuration: frozen, validated when it is built, no unknown keys; the Prefect UI shows it as a form."""

from __future__ import annotations

import datetime
import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


# YAML 1.1 reads an unquoted `no` as false and 2024-05-01 as a date; people write both without quotes.
def _precision_text(value: Any) -> Any:
    return "no" if value is False else value


def _date_text(value: Any) -> Any:
    return value.isoformat() if type(value) is datetime.date else value


MixedPrecision = Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_precision_text)]


EXECUTION_SECTIONS = frozenset({"compute", "evaluation"})  # sections of Config that decide no byte of a data set


class Section(BaseModel):
    """Base of every section: immutable, refuses unknown keys and infinite or undefined numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImagesConfig(Section):
    """Training images: real scans when a folder is given, phantoms otherwise."""

    n_phantoms: Positive = Field(4000, description="Phantom training images drawn when no folder of scans is given.")
    denoise: Literal["nlm", "bm3d", "none"] = Field(
        "nlm",
        description="Of scans: fast non-local means, or the original's BM3D (an optional extra, 16 s a scan; its "
        "licence allows non-commercial use only).",
    )
    min_images: Positive = Field(40, description="Fewer usable scans than this stop the run: nothing could be learned.")
    validation_fraction: Fraction = Field(0.1, description="Share of patients kept for validation curves.")
    test_fraction: Fraction = Field(0.1, description="Share of patients kept for figures quoted about the models.")

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            total = self.validation_fraction + self.test_fraction
            raise ValueError(f"validation_fraction + test_fraction must stay below 1, got {total:g}")
        return self


class TrainingSection(Section):
    """What both networks' trainings have in common."""

    steps: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)
    mixed_precision: MixedPrecision = "no"
    gradient_accumulation: Positive = 1
    validate_every: int = Field(0, ge=0, description="Steps between validations, whose best weights are kept; 0: none.")
    patience: int = Field(0, ge=0, description="Validations without a new best before training stops; 0: never.")


class VAEConfig(TrainingSection):
    """The variational autoencoder; defaults are the original's."""

    image_size: int = Field(224, ge=32, multiple_of=32, description="Side in pixels: the decoder doubles five times.")
    latent_dim: Positive = Field(128, description="Length of z.")
    width: float = Field(1.0, gt=0, le=4, description="Multiplies every channel count; 1 is the original.")
    steps: Positive = Field(500_000, description="About 30 epochs of the original's 84,000 training scans.")
    batch_size: int = Field(5, ge=2, description="Batch norm needs at least two.")
    learning_rate: float = Field(1e-3, gt=0)
    kl_weight: float = Field(0.037558578, ge=0, description="β after warm-up.")
    kl_warmup_steps: int = Field(84_000, ge=0, description="β rises linearly over these steps (original: 5 epochs).")
    free_bits: float = Field(
        0.0,
        ge=0,
        description="Nats per entry that the KL term does not charge for (Kingma et al. 2016): more stay alive.",
    )
    cycle_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of reading z back from decode(z) with z drawn from the prior; the original has none.",
    )
    vgg_weights: str | None = Field(
        None, description="Safetensors file with torchvision's VGG16 weights; without it MS-SSIM takes the place."
    )


class DiffusionConfig(TrainingSection):
    """The diffusion model: our small residual one, or the original's Stable Diffusion fine-tune."""

    kind: Literal["residual", "latent", "stable-diffusion"] = "residual"
    image_size: int = Field(64, ge=32, multiple_of=32)
    channels: tuple[Positive, ...] = Field((64, 96), description="UNet levels of the residual model, multiples of 16.")
    objective: Literal["flow", "velocity"] = Field("flow", description="What the latent model predicts.")
    autoencoder: str | None = Field(
        None, description="Of the latent model: folder or hub name of an autoencoder of diffusers; null trains our own."
    )
    autoencoder_width: Positive = Field(32, description="Channels of our own autoencoder.")
    autoencoder_levels: int = Field(3, ge=2, description="Of our own autoencoder: each but the first halves the image.")
    autoencoder_steps: Positive = 2000
    autoencoder_learning_rate: float = Field(1e-3, gt=0)
    encoded_variants: Positive = Field(
        8, description="Augmented views of each image that are encoded ahead of training in an autoencoder's space."
    )
    encoder_weight: float = Field(
        0.0, ge=0, description="Weight of reading z back, by the frozen VAE encoder, from the image that is predicted."
    )
    unet: str | None = Field(
        None, description="Folder or hub name of a UNet to start from in the place of pretrained's own."
    )
    pretrained: str = Field(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", description="Folder or hub name of the model that is fine-tuned."
    )
    steps: Positive = 115_000
    batch_size: Positive = 4
    learning_rate: float = Field(1e-5, gt=0)
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    min_snr_gamma: float | None = Field(
        5.0, gt=0, description="Cap of the min-SNR weights; null weighs all alike, as a flow does."
    )
    noise_offset: float = Field(0.0, ge=0)

    @field_validator("channels")
    @classmethod
    def _channels_fit_group_norm(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not channels or any(count % 16 for count in channels):
            raise ValueError("each level needs a multiple of 16 channels (group normalisation), one level at least")
        return channels


class GeneratorConfig(Section):
    """How images are made from latents."""

    backend: str = Field("diffusion", description="phantom, vae, diffusion, or a backend of your own.")
    image_size: int = Field(64, ge=16, description="Side in pixels of the phantom's images; models know their own.")
    latent_dim: Positive = Field(16, description="Length of z for the phantom; models know their own.")
    scheduler: Literal["ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "euler", "heun", "student"] = Field(
        "ddim", description="Solver; student is the distilled few-step network, where the model has one."
    )
    steps: Positive = 10
    decoder: Literal["full", "light"] = Field("full", description="light: the distilled one, where the model has one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type the network works in; the solver always works in float32."
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="Let torch.compile write the network's kernels; auto: on CUDA. Changes the last bits only."
    )
    batch_size: Literal["auto"] | Positive = Field(
        "auto", description="Images at a time; auto suits the device. Halved, with a warning, when they do not fit."
    )


class DistillationConfig(Section):
    """What ``distill`` makes of a trained diffusion model: a few-step student and, where it pays, a light decoder."""

    student_steps: int = Field(20_000, ge=0, description="Training steps of the student; 0: none.")
    teacher_steps: int = Field(
        16, ge=2, le=1000, description="Solver steps of the teacher that the student learns to shorten."
    )
    solver_steps: Positive = Field(3, description="Leaps that the student is measured with.")
    decoder_steps: int = Field(
        20_000,
        ge=0,
        description="Training steps of the light decoder (stable-diffusion alone has a heavy one); 0: none.",
    )
    decoder_width: Positive = Field(64, description="Channels of the light decoder (TAESD: 64).")
    batch_size: Positive = 32
    learning_rate: float = Field(1e-4, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    mixed_precision: MixedPrecision = "no"


class ProbeConfig(Section):
    """How a finished model is measured: fixed with it, so that other solver steps never change which entries are η."""

    n_images: int = Field(512, ge=64, description="Images drawn to measure how well z reads back.")
    scheduler: Literal["ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "euler", "heun"] = "ddim"
    steps: Positive = 10
    batch_size: Positive = 32
    noise_seeds: int = Field(3, ge=2, description="Draws of the images' noise that the spread of R² is taken over.")
    reader: Literal["encoder", "network"] = Field(
        "encoder", description="What reads z back: the VAE's encoder, or a network trained for it on generated images."
    )
    reader_images: int = Field(14_000, ge=64, description="Generated images that a network reader learns from.")
    reader_steps: Positive = Field(1500, description="Batches of 64 that a network reader is trained for.")
    dinov2: str | None = Field(None, description="Local folder of a DINOv2 network, for figures in its features too.")


class DoseConfig(Section):
    """One dose, the same for every subject."""

    time: float = Field(0.0, ge=0)
    amt: float = Field(1.0, gt=0)
    cmt: Positive = 1
    rate: float = Field(0.0, ge=0, description="Amount per unit of time of an infusion; 0 gives it all at once.")
    addl: int = Field(0, ge=0, description="How often the dose is given again.")
    ii: float = Field(0.0, ge=0, description="Time between these doses.")

    @model_validator(mode="after")
    def _again_after_some_time(self) -> Self:
        if self.addl and not self.ii:
            raise ValueError("doses that are given again (addl) need the time between them (ii)")
        return self


class OutcomesConfig(Section):
    """The longitudinal model and the visits."""

    model: str = Field("depot-central-mm", description="Name of a model in models/nlme.")
    times: tuple[float, ...] = Field(tuple(i / 2 for i in range(21)), min_length=1, description="Observation times.")
    doses: tuple[DoseConfig, ...] = (DoseConfig(),)
    jitter: float = Field(
        0.0, ge=0, description="Visits are up to this much earlier or later; not the first, nor those with a dose."
    )
    missed: Fraction = Field(0.0, description="Probability of missing a visit, for each but the first.")
    dropout: Fraction = Field(0.0, description="Probability of leaving before the last visit, at a constant hazard.")

    @property
    def irregular(self) -> bool:
        """Whether subjects differ in when they are seen."""
        return bool(self.jitter or self.missed or self.dropout)

    @property
    def given(self) -> list[tuple[float, float, int, float]]:
        """Time, amount, compartment and rate of every single dose, in the order of time."""
        single = [(d.time + again * d.ii, d.amt, d.cmt, d.rate) for d in self.doses for again in range(d.addl + 1)]
        return sorted(single, key=lambda dose: dose[0])

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
    """What is published."""

    name: str = Field("image-longitudinal-demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    date: Annotated[str | None, BeforeValidator(_date_text)] = Field(
        None, pattern=r"^\d{4}-\d{2}-\d{2}$", description="Stated in the Croissant description."
    )
    licence: str = Field("CC-BY-4.0", description="SPDX identifier stated on the card.")
    n_subjects: Positive = 512
    shard_size: Positive = 128
    association: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0, 0.5, 0.1, 0.0526, 0.02), min_length=1, description="ρ²: share of Var(η) that the image can explain."
    )
    eta_dims: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "auto", description="Latent entries that become η (from 0); auto takes the most recoverable ones."
    )
    validation_fraction: Fraction = 0.0
    test_fraction: Fraction = Field(1 / 11, description="Held-out subjects; the original: 100,000 of 1,100,000.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            total = self.validation_fraction + self.test_fraction
            raise ValueError(f"validation_fraction + test_fraction must stay below 1, got {total:g}")
        if len(set(self.association)) != len(self.association):
            raise ValueError(f"association levels must differ from each other, got {list(self.association)}")
        if self.eta_dims != "auto" and len(set(self.eta_dims)) != len(self.eta_dims):
            raise ValueError(f"eta_dims must differ from each other, got {list(self.eta_dims)}")
        return self


class ComputeConfig(Section):
    """Where and how wide to run; never changes what is made."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    concurrent_shards: Positive = Field(
        1,
        description="Shards generated at the same time (at least two per accelerator or render process); with the "
        "executor work-pool, flow runs submitted at the same time.",
    )
    render_processes: Literal["auto"] | Positive = Field(
        "auto",
        description="Processes on this host that render images; auto: one per accelerator if there are several. "
        "Training uses one per accelerator, at most this many.",
    )
    executor: Literal["threads", "dask", "work-pool"] = Field(
        "threads",
        description="What generates shards: threads of the run, a Dask cluster, or workers of the work pool shards.",
    )
    dask_address: str | None = Field(
        None, description="Scheduler, as tcp://host:8786; without one Dask starts processes on this machine."
    )


class ResNetConfig(Section):
    """The published ResNet18 that regresses empirical Bayes estimates on images."""

    steps: int = Field(0, ge=0, description="Most training steps per association level; 0 leaves the network out.")
    batch_size: Positive = Field(16, description="The original's.")
    width: float = Field(1.0, gt=0, le=4, description="Multiplies its channels; 1 is ResNet18.")
    mixed_precision: MixedPrecision = "no"


class EvaluationConfig(Section):
    """How a published data set is evaluated; decides nothing of the data."""

    levels: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="Some levels; null for all."
    )
    population: Literal["likelihood", "foce", "known"] = Field(
        "likelihood",
        description="foce: FOCE from the published start; likelihood: from there on to the maximum of the likelihood "
        "itself, by importance sampling, without FOCE's bias; known: the true values.",
    )
    fit_subjects: Positive = Field(2000, description="Training subjects fitted: evenly spaced where there are more.")
    latent_regressor: Literal["auto", "encoder", "pca"] = Field(
        "auto",
        description="What reads z from images: the encoder of the registered model that generated them, or a "
        "polynomial of principal components (pca) fitted to training subjects; auto: the encoder if the workspace has "
        "that model.",
    )
    components: Positive = Field(160, description="Principal components of the PCA regressor.")
    products: Positive = Field(40, description="Of these, components that also enter by their products.")
    folds: int = Field(5, ge=2, description="Of the cross-fit.")
    rounds: int = Field(6, ge=0, description="Most rounds of the image-informed model after the one-step correction.")
    resnet: ResNetConfig = ResNetConfig()
    bootstrap: int = Field(1000, ge=100, description="Resamples behind each 95 % interval.")
    visits: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2, 4), description="Observed visits of forecasts.")
    residual_subjects: Positive = Field(5000, description="Subjects whose residuals are tested against the design.")

    @field_validator("visits")
    @classmethod
    def _visits_ascend(cls, visits: tuple[int, ...]) -> tuple[int, ...]:
        if not visits or any(b <= a for a, b in itertools.pairwise(visits)):
            raise ValueError("visits must be at least one number, ascending strictly")
        return visits


class Config(Section):
    """Everything that decides a data set, from training images to tables."""

    seed: int = Field(1, ge=0, lt=2**63)
    images: ImagesConfig = ImagesConfig()
    vae: VAEConfig = VAEConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    probe: ProbeConfig = ProbeConfig()
    distillation: DistillationConfig = DistillationConfig()
    generator: GeneratorConfig = GeneratorConfig()
    outcomes: OutcomesConfig = OutcomesConfig()
    dataset: DatasetConfig = DatasetConfig()
    compute: ComputeConfig = ComputeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
