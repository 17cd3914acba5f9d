"""What a model between images and z says of z, before a diffusion model is trained around it."""

import numpy as np
import torch

from image_longitudinal.core.section import Section
from image_longitudinal.models.imaging.backends import vae_images
from image_longitudinal.models.imaging.grey_images import ImageRows, evenly_spaced
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.quality.recoverability import encoder_reader, probe_latents, r_squared
from image_longitudinal.models.vae.augmentation import centre_views
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.models.vae.network import VAE

DECODED = 96  # images of which z is read, a tenth of a second of a core each if flattened; R² of 0.8 is known to ± 0.08
ENCODED = 2048  # training images; a covariance of 128 dimensions needs many more than 128
BATCH = 64


class LatentSignal(Section):
    """R² per dimension, best first.

    ``read_back``: z ~ N(0, I) read from the model's own images, which hold no detail yet. ``posterior``: what training
    images leave of z, the eigenvalues of the covariance of standardised posterior means (near 1: known; near 0: drawn
    anew for every image); it predicts what a diffusion model that is given samples of the posterior can show. None for
    a model without a posterior, and for one whose training was private.
    """

    read_back: list[float]
    posterior: list[float] | None = None


@torch.no_grad()
def latent_signal(vae: LatentModel, images: ImageRows | None, seed: int) -> LatentSignal:
    """Measure a trained model on its own decoded images, and on training images (n, S, S) uint8 unless None."""
    latents, seeds = probe_latents(seed, DECODED, vae.latent_dim, "signal")
    decoded = generate_in_batches(vae_images(vae, digest=""), latents, seeds, BATCH)
    read = r_squared(latents, encoder_reader(vae)(decoded))
    posterior = posterior_shares(vae, images) if isinstance(vae, VAE) and images is not None else None
    return LatentSignal(read_back=np.sort(read)[::-1].tolist(), posterior=posterior)


@torch.no_grad()
def posterior_shares(vae: VAE, images: ImageRows) -> list[float]:
    """Eigenvalues, largest first, of the covariance of standardised posterior means over training images.

    Standardised latents have the covariance I = Cov(mean) + mean of the posterior's variances, so each is a share.
    """
    views = centre_views(evenly_spaced(images, ENCODED), vae.device, BATCH)
    means = torch.cat([vae.encode(view) for view in views]).double()
    return torch.linalg.eigvalsh(torch.cov(means.T).reshape(means.shape[1], -1)).flip(0).tolist()
