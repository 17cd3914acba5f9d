"""All that is measured of a finished image model: recoverability, fidelity, what it gives away of its scans."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.core.progress import Step, report
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.imaging.device import default_device
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.quality.copies import copy_figures
from image_longitudinal.models.quality.features import dinov2_features, encoder_features
from image_longitudinal.models.quality.fidelity import fidelity_figures
from image_longitudinal.models.quality.judge.judge import RealScans, judge_images
from image_longitudinal.models.quality.judge.networks import FeatureNetwork
from image_longitudinal.models.quality.latent_regressor import train_latent_regressor
from image_longitudinal.models.quality.membership import membership_figures
from image_longitudinal.models.quality.memorisation import memorisation_figures, training_views
from image_longitudinal.models.quality.recoverability import (
    Reader,
    encoder_reader,
    most_recoverable,
    probe_latents,
    r_squared,
    r_squared_intervals,
)
from image_longitudinal.models.registry.metadata import Measurement
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.train import latent_importance

MAX_REAL = 2048  # training images whose features are compared; more change no visible digit
MIN_HELD_OUT = 8  # images; with fewer, only recoverability is measured


class JudgedScans(NamedTuple):
    """A judge's network, and the real scans that it compares with."""

    network: FeatureNetwork
    train: RealScans
    held_out: RealScans  # of patients that no network was trained on


class RealImages(NamedTuple):
    """The images that a model is measured against, uint8 (n, S, S); ``digest`` identifies the held-out ones."""

    train: ImageRows
    held_out: ImageRows  # of patients that no network was trained on
    digest: str


def measure_image_model(
    model: ImageModel,
    vae: LatentModel,
    real: RealImages,
    probe: ProbeConfig,
    seed: int,
    device: str,
    judged: JudgedScans | None = None,
    generator: DiffusionModel | None = None,
) -> Measurement:
    """Generate images of z ~ N(0, I), as a data set has them, and measure them.

    The VAE, on the model's device, gives the feature space, and reads z back with ``probe.reader`` encoder; a network
    reader is trained on ``device``. ``seed`` is that of all latents and noise. With ``judged``, the first images, as
    many as its held-out scans, are judged from outside, and the losses of VAE and ``generator``, the network that
    ``model`` samples, tell its training scans from the others as well as they can.
    """
    latents, images = _generate(model, probe, seed, "measure", probe.n_images)
    reader = encoder_reader(vae)
    if probe.reader == "network":
        targets, others = _generate(model, probe, seed, "reader", probe.reader_images)
        where = default_device(device)
        reader = train_latent_regressor(others, targets, steps=probe.reader_steps, seed=seed, device=where)
    report(Step("measure recoverability"))
    estimates = reader(images)
    recoverability = r_squared(latents, estimates).tolist()
    noise_spread = _noise_spread(model, reader, probe, seed)
    fidelity, memorisation, copies = {}, None, None
    if min(len(real.held_out), len(real.train)) >= MIN_HELD_OUT:
        report(Step("compare generated with real images"))
        new, known = real.held_out[slice(None)], evenly_spaced(real.train, MAX_REAL)
        if vae.views_are_crops:
            new, known = training_views(new, seed), training_views(known, seed + 1)
        spaces = {"encoder": encoder_features(vae)}
        if probe.dinov2:
            spaces["dinov2"] = dinov2_features(probe.dinov2)
        fidelity = {name: fidelity_figures(of(known), of(new), of(images), seed) for name, of in spaces.items()}
        memorisation = memorisation_figures(images, new, real.train)
        report(Step("look for copies of training scans"))
        copies = copy_figures(images, real.held_out[slice(None)], real.train)
    judgement, membership = None, None
    if judged is not None:
        made = images[: len(judged.held_out.images)]
        judgement = judge_images(made, judged.train, judged.held_out, judged.network, seed)
        report(Step("tell training scans from others"))
        membership = membership_figures(vae, generator, judged.train, judged.held_out, seed)
    return Measurement(
        probe=probe, held_out=real.digest, recoverability=recoverability, read_by=probe.reader,
        noise_spread=noise_spread, latent_order=most_recoverable(recoverability),
        importance=latent_importance(vae, seed), fidelity=fidelity, memorisation=memorisation,
        copies=copies, membership=membership,
        recoverability_intervals=r_squared_intervals(latents, estimates, seed), judgement=judgement,
    )  # fmt: skip


def _generate(
    model: ImageModel, probe: ProbeConfig, seed: int, purpose: str, n: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    latents, seeds = probe_latents(seed, n, model.latent_dim, purpose)
    return latents, generate_in_batches(model, latents, seeds, probe.batch_size)


def _noise_spread(model: ImageModel, reader: Reader, probe: ProbeConfig, seed: int) -> list[float]:
    """Standard deviation of R² per dimension over ``probe.noise_seeds`` noise seeds of the same latents."""
    n = max(16, probe.n_images // 12)
    latents, _ = probe_latents(seed, n, model.latent_dim, "spread")
    figures = []
    for repeat in range(probe.noise_seeds):
        _, seeds = probe_latents(seed, n, model.latent_dim, f"spread {repeat}")
        figures.append(r_squared(latents, reader(generate_in_batches(model, latents, seeds, probe.batch_size))))
    return [float(value) for value in np.std(figures, axis=0, ddof=1)]
