"""Training of the flattened retina: components and prior in closed form, then the network for the detail."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from image_longitudinal.core.config import DiffusionConfig, VAEConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.models.diffusion.loss import diffusion_loss
from image_longitudinal.models.diffusion.schedules import NoiseSchedule
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.diffusion.train import reconstruction_errors
from image_longitudinal.models.flattened.diffusion import FlattenedDiffusion
from image_longitudinal.models.flattened.images import FlattenedImages
from image_longitudinal.models.flattened.prior import fit_mixture
from image_longitudinal.models.flattened.retina import FlattenedRetina, retina_rows
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.geometry import CURVE_TERMS, TRACED_COLUMNS, visible
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced, to_unit
from image_longitudinal.models.registry.metadata import DiffusionTraining, VAETraining
from image_longitudinal.models.training.checkpoints import load_initial_weights
from image_longitudinal.models.training.loop import LoopSettings, TrainingProgress, train
from image_longitudinal.models.training.processes import check_divisible, process_rows
from image_longitudinal.models.training.step_random import batch_indices, seeded_weights, step_generator

FITTED_IMAGES = 1024  # of the training set that components and prior are fitted to, each with its mirror image
COMPONENT_COUNTS = (1, 2, 3, 4, 6, 8)  # of the prior's mixture, chosen by the likelihood of patients left out
FOLDS = 5
MIRROR = np.array([1.0, -1.0, 1.0, -1.0])  # what mirroring makes of a curve's coefficients
# Of the mean image in training, in standard deviations of its grey levels: otherwise the network knows a training scan
# by it, and copies.
MEAN_NOISE = 0.05
LEAST_WEIGHT = 0.05  # of a flattened row that hardly any scan shows
VALIDATION_IMAGES = 256
RECONSTRUCTED_IMAGES = 16
GAIN_IMAGES = 256  # generated images that the gain of the detail is fitted to, at most as many as scans
GAIN_SOLVER, GAIN_STEPS = "whitened", 6  # how they are drawn: about as by the presets
GAIN_BATCH = 32


@torch.no_grad()
def fit_flattened_retina(
    images: FlattenedImages, patients: NDArray[np.int64], config: VAEConfig, seed: int
) -> tuple[FlattenedRetina, VAETraining]:
    """Principal components of flattened images and their mirror images, and the prior of curve and scores.

    Args:
        images: of the training scans.
        patients: number of the patient of each (n,): the prior is judged by patients left out.
        config: image size, and length D of z: 4 for the curve, the others for the appearance.
        seed: of the prior's fit.

    Raises:
        ModelError: fewer than 2 D images.
    """
    dims = config.latent_dim - CURVE_TERMS
    if len(images) < 2 * config.latent_dim:
        raise ModelError(
            "too few images for the components of the flattened retina", where=f"vae.latent_dim {config.latent_dim}",
            expected=f"{2 * config.latent_dim} or more", got=len(images), do="lower vae.latent_dim, or add scans",
        )  # fmt: skip
    chosen = np.linspace(0, len(images) - 1, min(len(images), FITTED_IMAGES)).astype(np.int64)
    flat = images.plain(chosen, torch.device("cpu"))
    pixels = torch.cat([flat, flat.flip(-1)]).flatten(1)
    mean = pixels.mean(0)
    centred = pixels - mean
    curves = images.curves[chosen]
    row_weight = visible(torch.from_numpy(curves), retina_rows(config.image_size), TRACED_COLUMNS).mean((0, 2))
    row_weight = row_weight.clamp(min=LEAST_WEIGHT)
    weights = row_weight.repeat_interleave(config.image_size)
    eigenvalues, vectors = torch.linalg.eigh(((centred * weights) @ centred.T).double())
    basis = vectors.flip(1)[:, :dims].float().T @ centred
    basis = basis / (basis.square() * weights).sum(1, keepdim=True).sqrt()
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()  # the same sign by every library
    scores = (centred * weights @ basis.T).double().numpy()
    coordinates = np.concatenate([np.concatenate([curves, curves * MIRROR]), scores], axis=1)
    centre, spread = coordinates.mean(0), coordinates.std(0)
    groups = np.tile(patients[chosen], 2)
    mixture, likelihoods = fit_mixture((coordinates - centre) / spread, groups, COMPONENT_COUNTS, FOLDS, seed)
    retina = FlattenedRetina(config.image_size, config.latent_dim, len(mixture.weights))
    retina.mean.copy_(mean)
    retina.basis.copy_(basis)
    retina.row_weight.copy_(row_weight)
    retina.set_prior(mixture, centre, spread)
    explained = eigenvalues.flip(0)[:dims] / eigenvalues.sum()
    return retina.eval(), VAETraining(
        history=[], kl=[], active_units=config.latent_dim, validation_mse=None, perception="none",
        explained_variance=explained.tolist(), prior_likelihood={str(k): v for k, v in likelihoods.items()},
    )  # fmt: skip


def train_flattened_diffusion(
    retina: FlattenedRetina,
    images: FlattenedImages,
    validation: FlattenedImages,
    scans: ImageRows,
    held_out: ImageRows,
    config: DiffusionConfig,
    seed: int,
    checkpoint: Path,
    device: str = "auto",
    report: Callable[[TrainingProgress], None] | None = None,
    initial: dict[str, Tensor] | None = None,
) -> tuple[FlattenedDiffusion, DiffusionTraining]:
    """Train the network that draws the detail of flattened images given their mean image.

    Args:
        retina: fitted to the same images; not changed.
        images, validation: of training scans, and of other patients.
        scans: training scans (n, S, S) uint8, whose detail finished images are to have.
        held_out: images (n, S, S) uint8 of other patients, to reconstruct.
        config, seed, checkpoint, device, report, initial: as for :func:`models.diffusion.train.train_diffusion`.

    Raises:
        ModelError: see :func:`models.training.loop.train`; also if ``initial`` does not fit.
    """
    check_divisible("diffusion", config.batch_size)
    where = default_device(device)
    model = build_flattened_diffusion(retina, config, seed)
    if initial is not None:
        load_initial_weights("diffusion", model.denoiser, initial)
    model.to(where)
    chosen = np.linspace(0, len(images) - 1, min(len(images), FITTED_IMAGES)).astype(np.int64)
    model.standardise(images.plain(chosen, where))
    schedule = NoiseSchedule.of(model.schedule)
    # White in pixels: fine coefficients of a mean image are weak, and would tell one scan from another.
    mean_noise = (MEAN_NOISE * model.contrast.square().mean().sqrt() / model.contrast)[:, None, None]

    def figures(denoiser: nn.Module, flat: Tensor, generator: torch.Generator, rows: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            mean = retina.mean_flat(retina.scores(flat))
            working, context = model.fold(model.residual(flat, mean)), model.fold_mean(mean)
            context = context + mean_noise * torch.randn(context.shape, generator=generator).to(where)
        return diffusion_loss(
            model, denoiser, schedule, working, context.new_empty(len(flat), 0), generator, context=context,
            min_snr_gamma=config.min_snr_gamma, noise_offset=config.noise_offset, rows=rows,
        )  # fmt: skip

    def loss(denoiser: nn.Module, step: int, device: torch.device) -> dict[str, Tensor]:
        generator = step_generator(seed, "diffusion", step)
        rows = batch_indices(len(images), config.batch_size, seed, "diffusion", step)
        return figures(denoiser, images.augmented(rows, generator, device), generator, process_rows())

    @torch.no_grad()
    def validation_loss(denoiser: nn.Module) -> float:
        rows = np.linspace(0, len(validation) - 1, min(len(validation), VALIDATION_IMAGES)).astype(np.int64)
        losses = []
        for index, part in enumerate(np.array_split(rows, 8)):
            if len(part):
                generator = step_generator(seed, "diffusion-validation", index)
                losses.append(figures(denoiser, validation.plain(part, where), generator, slice(None))["loss"])
        return float(torch.stack(losses).mean())

    settings = LoopSettings.of(config, device, cosine_decay=config.learning_rate_decay == "cosine")
    validate = validation_loss if len(validation) else None
    model.denoiser, history = train("diffusion", model.denoiser, loss, settings, checkpoint, report, validate)
    pixel_mse, working_mse = reconstruction_errors(model, retina, evenly_spaced(held_out, RECONSTRUCTED_IMAGES), where)
    fit_gain(model, scans, seed)
    return model, DiffusionTraining(
        history=history, validation_loss=validate(model.denoiser) if validate else None, pixel_mse=pixel_mse,
        working_mse=working_mse,
    )  # fmt: skip


@torch.no_grad()
def fit_gain(model: FlattenedDiffusion, scans: ImageRows, seed: int) -> None:
    """Fit the gain of the detail of a trained model, in evaluation mode, to training scans (n, S, S) uint8."""
    device = model.vae.mean.device
    real = to_unit(evenly_spaced(scans, GAIN_IMAGES), device)
    ids = np.arange(len(real))
    latents = torch.from_numpy(normals(stream_key(seed, "detail-latent"), ids, model.latent_dim)).float().to(device)
    seeds = torch.from_numpy(subject_seeds(stream_key(seed, "detail-seed") >> 1, ids)).to(device)
    batches = zip(latents.split(GAIN_BATCH), seeds.split(GAIN_BATCH), strict=True)
    made = [sample_on_device(model, *batch, scheduler=GAIN_SOLVER, steps=GAIN_STEPS) for batch in batches]
    model.fit_detail(torch.cat(made)[:, None].float() / 255, real)


def build_flattened_diffusion(retina: FlattenedRetina, config: DiffusionConfig, seed: int) -> FlattenedDiffusion:
    """The model around a flattened retina, with initial weights that depend on the seed alone."""
    with seeded_weights(seed, "diffusion-weights"):
        model = FlattenedDiffusion(retina, config.channels)
    model.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
    return model
