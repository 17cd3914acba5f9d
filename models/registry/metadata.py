"""What a registered model records of itself, and how a model.json holds it; older formats are read by upgrades."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from image_longitudinal.core.config import DiffusionConfig, DistillationConfig, ProbeConfig, Section, VAEConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.models.registry.judgement import Interval, Judgement

FORMAT = 2  # of model.json; raise it with an upgrade in _UPGRADES
WEIGHTS = ".safetensors"  # no other file of a version is copied or opened: a pickle could run code
RANDOM_EFFECTS = 3  # the metric "recoverability" is that of the third-best dimension: the published model has three η

History = list[dict[str, float]]  # one row per logged step: "step" and the values logged there


class TrainingImages(Section):
    """The prepared images that a model was trained on; ``by_split`` and ``by_class`` count images."""

    digest: str
    kind: Literal["scans", "phantom"]
    folder: str | None = None  # name of the folder of scans, without its parents
    images: int
    patients: int
    by_split: dict[str, int]
    by_class: dict[str, int]


class NetworkConfigs(Section):
    """What it takes, beside the weights, to assemble a version's networks; ``diffusion`` is None for a VAE alone."""

    vae: VAEConfig
    diffusion: DiffusionConfig | None = None
    residual_scale: float | None = None  # standard deviation of the residuals (diffusion.kind residual)
    borrowed: str | None = None  # digest of pretrained tensors that are loaded from elsewhere; None: none, or unknown

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the version makes."""
        return (self.diffusion or self.vae).image_size


class PrivacyFigures(Section):
    """What a differentially private training guarantees: (``epsilon``, ``delta``) for each patient of its scans.

    Of two training sets, one with a patient more (all scans of theirs) than the other, no outcome is more than
    exp(``epsilon``) times likelier with one, but for a probability ``delta``. ``sampling_rate``: the probability that a
    patient is in a step. ``noise_multiplier``: standard deviation of the noise by ``max_grad_norm``, to which the
    gradient of each patient is clipped. ``accountant``: what computed ε from these.
    """

    epsilon: float
    delta: float
    unit: Literal["patient"] = "patient"
    patients: int
    sampling_rate: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    accountant: str


class VAETraining(Section):
    """Training figures of the VAE: ``kl`` in nats per raw dimension, descending; ``validation_mse`` of grey 0 to 1.

    Without validation images ``validation_mse`` is None. A flattened retina has no training and no KL, but the share of
    the pixels' variance that each component explains, and the held-out log-likelihood (nats per image) of priors with
    different numbers of Gaussians. After a private training (``privacy``) history and KL are of public or of generated
    images alone.
    """

    history: History
    kl: list[float]
    active_units: int
    validation_mse: float | None
    perception: str
    explained_variance: list[float] | None = None
    prior_likelihood: dict[str, float] | None = None
    privacy: PrivacyFigures | None = None


class DiffusionTraining(Section):
    """Training figures of the diffusion model, measured on images of other patients; None without such images.

    ``validation_loss``: the training loss with fixed noise. ``pixel_mse``, ``working_mse``: errors of reconstructed
    scans, see :func:`models.diffusion.train.reconstruction_errors`. ``codec``: the autoencoder of a latent model.
    """

    history: History
    validation_loss: float | None
    pixel_mse: float | None = None
    working_mse: float | None = None
    autoencoder_history: History | None = None
    autoencoder_mse: float | None = None


class Arithmetic(Section):
    """What decides the last bits of trained weights beside the configuration.

    ``torch``: version and build; ``device``: cpu, or the GPU's name; ``threads``: CPU threads of each of ``processes``;
    ``instructions``: architecture and vector instructions of the CPU, as torch uses them.
    """

    torch: str
    device: str
    processes: int
    threads: int
    instructions: str


class TrainingFigures(Section):
    """Training figures of both networks; ``diffusion`` is None for a VAE alone."""

    vae: VAETraining
    diffusion: DiffusionTraining | None = None


class SetFigures(Section):
    """One set of images against another in some feature space.

    ``fd`` Fréchet distance; ``kid`` squared kernel distance (unbiased, so it may be negative). Precision and recall
    (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020): higher is better.
    """

    fd: float
    kid: float
    precision: float
    recall: float
    density: float
    coverage: float


class FidelityFigures(Section):
    """``generated`` and, as its ``floor``, training images against held-out images of other patients, ``n`` of each."""

    n: int
    generated: SetFigures
    floor: SetFigures


class MemorisationFigures(Section):
    """Distance to the nearest training image, root mean squared grey levels (0-1): 1st percentile and median."""

    generated_first_percentile: float
    held_out_first_percentile: float
    generated_median: float
    held_out_median: float

    @property
    def nearest_ratio(self) -> float:
        """First percentiles, generated over held out: below 1, generated images are closer than new patients' are."""
        return self.generated_first_percentile / self.held_out_first_percentile


class CopyFigures(Section):
    """Copies of single training scans, as :mod:`models.quality.copies` finds them.

    Of ``images`` generated ones, looked for among ``scans`` training scans, ``share`` are copies; of other patients'
    scans ``held_out_share``. ``least_ratio``: the least distance to the nearest scan, in units of that to the others.
    """

    images: int
    scans: int
    share: float
    held_out_share: float
    least_ratio: float
    held_out_least_ratio: float


class MembershipFigures(Section):
    """How often a training scan has a smaller loss than a scan of another patient: 0.5 tells nothing, 1 everything.

    See :mod:`models.quality.membership`; ``members`` and ``others`` count scans. ``diffusion_auc`` is None for a VAE
    alone.
    """

    members: int
    others: int
    vae_auc: Interval
    diffusion_auc: Interval | None


class LatentImportance(Section):
    """Per dimension of the standardised latent; lists of length D.

    ``change``: mean squared change of the decoded image (grey 0 to 1) when the dimension is resampled; more is more
    important. ``reading_error``: mean squared error of encode(decode(z)) against z ~ N(0, I); less is more important.
    """

    change: list[float]
    reading_error: list[float]


class Measurement(Section):
    """What was measured of a finished model, by ``probe``.

    ``recoverability``: R² per latent dimension of z read back from generated images by ``read_by``; ``noise_spread``:
    its standard deviation over the noise seeds; ``latent_order``: the dimensions, most recoverable first.
    ``recoverability_intervals``: by bootstrap over images; None in older records. ``held_out``: digest of the held-out
    images; with too few of them ``fidelity`` (by feature space) is empty and ``memorisation`` None. ``judgement``: by a
    judge from outside, and ``membership`` of the scans that it compares with; None without one, or in older records.
    """

    probe: ProbeConfig
    held_out: str
    recoverability: list[float]
    read_by: Literal["encoder", "network"]
    noise_spread: list[float]
    latent_order: list[int]
    importance: LatentImportance
    fidelity: dict[str, FidelityFigures]
    memorisation: MemorisationFigures | None = None
    copies: CopyFigures | None = None
    membership: MembershipFigures | None = None
    recoverability_intervals: tuple[Interval, ...] | None = None
    judgement: Judgement | None = None


def effect_dimension(measured: Measurement) -> int:
    """The dimension of z, from 0, that becomes the least readable random effect: the third-best one."""
    return measured.latent_order[min(RANDOM_EFFECTS, len(measured.latent_order)) - 1]


class SamplerComparison(Section):
    """One sampler of a distilled model; losses in per cent of the reference sampler's figures, negative for gains."""

    solver: str
    steps: int
    decoder: Literal["full", "light"]
    recoverability: float
    fd: float
    recoverability_loss_percent: float
    fd_loss_percent: float


class Distillation(Section):
    """``networks`` distilled from the version ``teacher``, and the samplers measured, the reference first."""

    teacher: str
    networks: tuple[Literal["student", "light-decoder"], ...]
    config: DistillationConfig
    samplers: tuple[SamplerComparison, ...]
    arithmetic: Arithmetic | None = None


class ModelMetadata(Section):
    """Everything a registered version records beside its weights.

    ``training_key``: digest of the spec that decided the version. ``pretrained``: digest of the local weights that the
    diffusion model started from, None for none. ``arithmetic``: of the training, None for versions that did not
    record it.
    """

    training_key: str
    seed: int
    images: TrainingImages
    networks: NetworkConfigs
    training: TrainingFigures
    measured: Measurement
    pretrained: str | None = None
    distillation: Distillation | None = None
    arithmetic: Arithmetic | None = None

    @property
    def backend(self) -> Literal["vae", "diffusion"]:
        """The backend that the version was trained for."""
        return "diffusion" if self.networks.diffusion else "vae"

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that versions are compared by; keys of :data:`models.registry.promotion.DIRECTION`."""
        measured = self.measured
        found = {"recoverability": measured.recoverability[effect_dimension(measured)]}
        if self.training.vae.validation_mse is not None:
            found["validation_mse"] = self.training.vae.validation_mse
        if measured.judgement:
            found |= measured.judgement.metrics
        elif encoder := measured.fidelity.get("encoder"):
            found |= encoder.generated.model_dump()
        if measured.memorisation:
            found["nearest_ratio"] = measured.memorisation.nearest_ratio
        return found


class ModelFile(NamedTuple):
    """The content of a model.json: the digest that names the version, SHA-256 by weights file, and the metadata."""

    digest: str
    files: dict[str, str]
    metadata: ModelMetadata


def write_model_file(files: Mapping[str, str], metadata: ModelMetadata) -> tuple[str, ModelFile]:
    """The text of a model.json for these weights files (SHA-256 by name), and what :func:`read_model_file` gives."""
    content: dict[str, Any] = {"format": FORMAT, "files": dict(files), "metadata": metadata.model_dump(mode="json")}
    digest = digest_of(content)
    text = json.dumps({**content, "digest": digest}, indent=1, sort_keys=True) + "\n"
    return text, ModelFile(digest, dict(files), metadata)


def read_model_file(text: bytes, where: object) -> ModelFile:
    """Read a model.json of any format. Its digest is that of the content as recorded, before any upgrade.

    Raises:
        ModelError: it is damaged or altered, lists other files than weights, or has an unknown format.
    """
    try:
        content = parse_json(text)
        digest = content.pop("digest")
        files = {str(name): str(sha256) for name, sha256 in content["files"].items()}
        if foreign := [name for name in files if Path(name).name != name or not name.endswith(WEIGHTS)]:
            raise ModelError(
                "a registered model lists files that are no weights", where=where,
                expected=f"names that end in {WEIGHTS}", got=", ".join(foreign),
                do="get it from its source again; none of these files was loaded",
            )  # fmt: skip
        if digest_of(content) != digest:
            raise ModelError(
                "a registered model was altered", where=where, expected=f"digest {digest}",
                do="remove this folder and train again",
            )  # fmt: skip
        if content["format"] not in {FORMAT, *_UPGRADES}:
            raise ModelError(
                "a registered model has an unknown format", where=where, expected=f"{FORMAT} or older",
                got=content["format"], do="update image-longitudinal",
            )  # fmt: skip
        while content["format"] != FORMAT:
            content = _UPGRADES[content["format"]](content)
        return ModelFile(digest, files, ModelMetadata.model_validate(content["metadata"]))
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise ModelError(
            "a registered model is damaged", where=where, got=error, do="remove this folder and train again"
        ) from error


def upgrade_v1_to_v2(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept everything side by side and recorded metrics and ratios, which format 2 derives."""
    old, counts = content["metadata"], content["metadata"]["images"]["counts"]
    fidelity = {
        space: {
            "n": figures["n"],
            "generated": {name: figures[name] for name in SetFigures.model_fields},
            "floor": {name: figures[f"floor_{name}"] for name in SetFigures.model_fields},
        }
        for space, figures in old["quality"].items()
    }
    nearest = {name: value for name, value in old["memory"].items() if name != "nearest_ratio"}
    measured = {name: old[name] for name in
                ("probe", "held_out", "recoverability", "read_by", "noise_spread", "importance")}  # fmt: skip
    metadata = {
        "training_key": old["training_key"],
        "seed": old["seed"],
        "images": {
            "digest": old["images"]["digest"],
            "kind": old["images"]["source"]["kind"],
            "folder": old["images"]["source"].get("folder"),
            **{name: counts[name] for name in ("images", "patients", "by_split", "by_class")},
        },
        "networks": {name: old.get(name) for name in ("vae", "diffusion", "residual_scale", "borrowed")},
        "training": old["figures"],
        "measured": measured | {"latent_order": old["entries"], "fidelity": fidelity, "memorisation": nearest or None},
        "pretrained": old.get("pretrained"),
    }
    return {**content, "format": 2, "metadata": metadata}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: upgrade_v1_to_v2}
