"""Tiny phantoms and one tiny trained model that several tests share; seconds to make, once per session."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DiffusionConfig, ProbeConfig, VAEConfig
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.diffusion.adagn import ResidualDiffusion
from image_longitudinal.models.diffusion.train import train_diffusion
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.registry.judgement import (
    ClassShare,
    Figure,
    Interval,
    Judge,
    Judgement,
    PathologyFigures,
    PropertyFigures,
    SetMeasures,
)
from image_longitudinal.models.registry.metadata import (
    DiffusionTraining,
    FidelityFigures,
    LatentImportance,
    Measurement,
    MemorisationFigures,
    ModelMetadata,
    NetworkConfigs,
    SetFigures,
    TrainingFigures,
    TrainingImages,
    VAETraining,
)
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.train import train_vae

VAE_CONFIG = VAEConfig(
    image_size=32, latent_dim=5, width=1 / 64, steps=60, batch_size=8, learning_rate=3e-3, kl_weight=0.02,
    kl_warmup_steps=5,
)  # fmt: skip
DIFFUSION_CONFIG = DiffusionConfig(
    image_size=32, channels=(16,), steps=6, batch_size=4, learning_rate=1e-3, ema_decay=0.5
)


def judgement(digest: str, frechet: float) -> Judgement:
    """A complete judgement with invented figures."""
    interval = Interval(value=0.5, low=0.4, high=0.6)
    figure = Figure(**interval.model_dump(), null=0.5, null_low=0.45, null_high=0.55)
    measures = SetMeasures.model_construct(**dict.fromkeys(SetMeasures.model_fields, figure))
    changes = {"frechet": figure.model_copy(update={"value": frechet}), "frechet_to_one_floor": 1.2 * frechet}
    shares = tuple(
        ClassShare(label=label, generated=interval, real=interval, difference=interval) for label in ("CNV", "NORMAL")
    )
    breaks = PropertyFigures(name="RPE breaks", generated=interval, real=interval, ratio=interval, distance=figure)
    return Judgement(
        judge=Judge(name="vgg16", digest=digest),
        n=50,
        measures=measures.model_copy(update=changes),
        properties=(breaks,),
        pathology=PathologyFigures(accuracy=0.7, shares=shares),
    )


def model_metadata(
    *,
    vae: VAEConfig = VAE_CONFIG,
    diffusion: DiffusionConfig | None = DIFFUSION_CONFIG,
    residual_scale: float | None = 0.1,
    recoverability: float = 0.8,
    fd: float | None = 2.0,
    held_out: str = "a",
    judge: str | None = None,
    **changes: object,
) -> ModelMetadata:
    """Complete metadata with invented figures; ``fd`` None leaves out all that needs held-out images.

    ``judge``: digest of the judge whose Fréchet distance ``fd`` is; without one it is that of the encoder.
    """
    dims = vae.latent_dim
    figures = SetFigures(fd=fd or 0.0, kid=0.5, precision=0.5, recall=0.5, density=0.5, coverage=0.5)
    nearest = MemorisationFigures(
        generated_first_percentile=0.2, held_out_first_percentile=0.1, generated_median=0.3, held_out_median=0.3
    )
    measured = Measurement(
        probe=ProbeConfig(),
        held_out=held_out,
        recoverability=[recoverability] * dims,
        read_by="encoder",
        noise_spread=[0.01] * dims,
        latent_order=list(range(dims)),
        importance=LatentImportance(change=[0.1] * dims, reading_error=[0.2] * dims),
        fidelity={} if fd is None else {"encoder": FidelityFigures(n=50, generated=figures, floor=figures)},
        memorisation=None if fd is None else nearest,
        judgement=None if judge is None else judgement(judge, fd or 0.0),
    )
    trained = VAETraining(
        history=[{"step": 0, "mse": 0.25}], kl=[1.0, 0.5], active_units=2, validation_mse=0.25, perception="ms-ssim"
    )
    return ModelMetadata(
        training_key="k1",
        seed=1,
        images=TrainingImages(digest="d", kind="phantom", images=96, patients=96, by_split={}, by_class={}),
        networks=NetworkConfigs(vae=vae, diffusion=diffusion, residual_scale=residual_scale),
        training=TrainingFigures(
            vae=trained, diffusion=DiffusionTraining(history=[], validation_loss=0.5) if diffusion else None
        ),
        measured=measured,
    ).model_copy(update=changes)


def phantoms(n: int, size: int, seed: int = 0) -> np.ndarray:
    ids = np.arange(n) + 10_000 * seed
    return render(normals(stream_key(seed, "test-latents"), ids, 12), ids, size)


@pytest.fixture(autouse=True)
def _same_draws_in_any_order() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_images() -> np.ndarray:
    return phantoms(96, 32)


@pytest.fixture(scope="session")
def trained_vae(tiny_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[VAE, VAETraining]:
    folder = tmp_path_factory.mktemp("vae")
    return train_vae(tiny_images, phantoms(9, 32, 1), VAE_CONFIG, 1, folder / "checkpoint", "cpu")


@pytest.fixture(scope="session")
def tiny_version(
    trained_vae: tuple[VAE, VAETraining], tiny_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> ModelVersion:
    """A registered VAE and residual diffusion model, with what the pipeline records of them."""
    folder: Path = tmp_path_factory.mktemp("models")
    vae, _ = trained_vae
    diffusion, _ = train_diffusion(vae, tiny_images, tiny_images[:4], DIFFUSION_CONFIG, 1, folder / "checkpoint", "cpu")
    assert isinstance(diffusion, ResidualDiffusion)
    metadata = model_metadata(residual_scale=diffusion.residual_scale)
    weights = {"vae": vae.state_dict(), "diffusion": diffusion.denoiser.state_dict()}
    return Registry(folder / "registry").register(weights, metadata, "# Tiny")


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Bit for bit."""
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def draws(n: int, latent_dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents from the prior and seeds, as a data set has them."""
    ids = np.arange(n)
    return normals(stream_key(seed, "test-draws"), ids, latent_dim).astype(np.float32), ids + 1_000 * seed


def random_denoiser(model: ResidualDiffusion) -> ResidualDiffusion:
    """Give the zero-initialised last layer weights, so that the network's output depends on its input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.init.normal_(model.denoiser.conv_out.weight, std=0.05)
    return model
