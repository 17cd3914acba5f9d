"""The diffusion model of the flattened retina: from images to working tensors and back, training, sampling."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import DiffusionConfig
from image_longitudinal.models.diffusion.solvers import sample_on_device
from image_longitudinal.models.flattened.detail_gain import DetailGain
from image_longitudinal.models.flattened.diffusion import FlattenedDiffusion
from image_longitudinal.models.flattened.images import FlattenedImages
from image_longitudinal.models.flattened.retina import FlattenedRetina
from image_longitudinal.models.flattened.train import build_flattened_diffusion, train_flattened_diffusion
from image_longitudinal.models.imaging import phantom
from image_longitudinal.models.imaging.assembly import diffusion_weights, trained_weights

CONFIG = DiffusionConfig(
    kind="flattened", image_size=32, channels=(16, 32), steps=6, batch_size=4, learning_rate=1e-3, min_snr_gamma=None
)


@pytest.fixture(scope="module")
def model(retina: FlattenedRetina, flattened: FlattenedImages) -> FlattenedDiffusion:
    """Untrained: it predicts a velocity of 0."""
    built = build_flattened_diffusion(retina, CONFIG, 0)
    built.standardise(flattened.plain(np.arange(100), torch.device("cpu")))
    return built.eval()


def _latents(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).standard_normal((n, 10))).float()


def test_working_tensors_hold_the_residual(model: FlattenedDiffusion, flattened: FlattenedImages) -> None:
    flat = flattened.plain(np.arange(100), torch.device("cpu"))
    mean = model.vae.mean_flat(model.vae.scores(flat))
    working = model.fold(model.residual(flat, mean))
    assert working.shape == (100, *model.working_shape)
    # Halfway, in logarithms, between a row's own scale and the average one: in all, near 1.
    assert 0.7 < float(working.std()) < 1.4
    context = model.with_curves(model.fold_mean(mean), torch.tensor(np.array(flattened.curves)))
    images = model.to_images(working, context)
    expected = model.to_images(model.fold(flat - mean), context)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_an_untrained_network_gives_the_best_linear_guess(model: FlattenedDiffusion) -> None:
    """Of normal coefficients with the strengths of the model: closer to the clean tensor than any other factor is."""
    generator = torch.Generator().manual_seed(5)
    clean = model.strength[:, :, None] * torch.randn(64, *model.working_shape, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    context = model.context(_latents(64))
    for step in (50, 400, 800):
        alpha, sigma = model.alpha[step], model.sigma[step]
        noisy = alpha * clean + sigma * noise
        with torch.no_grad():
            velocity = model.denoise(model.denoiser, noisy, torch.full((64,), step), _latents(64), context)
        guess = alpha * noisy - sigma * velocity
        factor = (noisy * clean).sum((0, 3)) / noisy.square().sum((0, 3))  # of each coefficient and row: least squares
        best = (factor[:, :, None] * noisy - clean).square().mean()
        # The factor is fitted to 2,048 values each; the model knows the true deviations.
        assert float((guess - clean).square().mean() / best) == pytest.approx(1, abs=0.01)


def test_the_scores_of_a_drawn_image_are_those_of_its_latents(model: FlattenedDiffusion) -> None:
    """Whatever the network draws: its part in the components is taken out."""
    z = _latents(64)
    drawn = 3 * torch.randn(64, *model.working_shape, generator=torch.Generator().manual_seed(0))
    images = model.to_images(drawn * 0.2, model.context(z))
    curves, scores = model.vae.coordinates(z)
    read_curves, read_scores = model.vae.read(images)
    far = (read_curves[:, 0] - curves[:, 0]).abs() < 0.02
    assert far.float().mean() > 0.9
    correlation = np.corrcoef(read_scores[:, 0].numpy(), scores[:, 0].numpy())[0, 1]
    assert correlation > 0.9


def test_sampling_depends_on_latents_and_seeds_alone(model: FlattenedDiffusion) -> None:
    z, seeds = _latents(5), torch.arange(5)
    together = sample_on_device(model, z, seeds, scheduler="dpm++", steps=2)
    ones = zip(z.split(1), seeds.split(1), strict=True)
    alone = torch.cat([sample_on_device(model, *one, scheduler="dpm++", steps=2) for one in ones])
    assert together.shape == (5, 32, 32)
    # Within one grey level: the batch decides how the device rounds.
    assert (together.int() - alone.int()).abs().max() <= 1
    other = sample_on_device(model, z, seeds + 9, scheduler="dpm++", steps=2)
    assert not torch.equal(other, together)


def test_training_lowers_the_loss_and_a_resumed_one_ends_alike(
    retina: FlattenedRetina, flattened: FlattenedImages, tmp_path: Path
) -> None:
    none = FlattenedImages(flattened.flat[:0], flattened.curves[:0], 32)
    held_out = np.zeros((0, 32, 32), np.uint8)
    scans = phantom.render(np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32), np.arange(24), 32)

    def trained(steps: int, name: str) -> tuple[FlattenedDiffusion, list[dict[str, float]]]:
        config = CONFIG.model_copy(update={"steps": steps, "ema_decay": 0.5})
        arguments = (retina, flattened, none, scans, held_out, config, 0, tmp_path / name, "cpu")
        model, figures = train_flattened_diffusion(*arguments)
        assert figures.validation_loss is None
        return model, figures.history

    long, history = trained(40, "long")
    assert history[-1]["loss"] < history[0]["loss"]
    trained(3, "short")
    resumed, _ = trained(6, "short")
    direct, _ = trained(6, "direct")
    for one, other in zip(resumed.denoiser.parameters(), direct.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)
    start = trained_weights(diffusion_weights(long))  # as a registered version has them
    config = CONFIG.model_copy(update={"steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0})
    arguments = (retina, flattened, none, scans, held_out, config, 0, tmp_path / "started", "cpu")
    started, _ = train_flattened_diffusion(*arguments, initial=start)
    for one, other in zip(started.denoiser.parameters(), long.denoiser.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    frozen = long.frozen_state()
    again = build_flattened_diffusion(retina, CONFIG, 0)
    again.load_frozen_state(frozen)
    assert torch.equal(again.row_scale, long.row_scale)
    assert torch.equal(again.detail_gain, long.detail_gain)
    assert again.has_detail_gain


def test_finished_images_have_the_gain_that_was_fitted_and_older_weights_none(model: FlattenedDiffusion) -> None:
    z = _latents(8)
    drawn = 0.2 * torch.randn(8, *model.working_shape, generator=torch.Generator().manual_seed(0))
    plain = model.to_images(drawn, model.context(z))
    gained = build_flattened_diffusion(model.vae, CONFIG, 0).eval()
    gained.load_frozen_state(model.frozen_state())
    assert torch.equal(gained.to_images(drawn, gained.context(z)), plain)
    scans = phantom.render(z[:, :8].numpy(), np.arange(8), 32)
    gained.fit_detail(plain, torch.from_numpy(scans)[:, None].float() / 255)
    expected = DetailGain(gained.detail_grey, gained.detail_gain).apply(plain)
    images = gained.to_images(drawn, gained.context(z))
    assert torch.equal(images, expected)
    assert float((images - plain).abs().max()) > 0.01
    gained.load_frozen_state(model.frozen_state())  # of weights without a gain
    assert torch.equal(gained.to_images(drawn, gained.context(z)), plain)


def test_larger_images_have_larger_blocks_on_the_same_grid() -> None:
    for size, patch in ((64, (4, 2)), (128, (8, 4))):
        model = build_flattened_diffusion(FlattenedRetina(size, 8, 1), CONFIG, 0)
        assert (model.blocks.shape, model.working_shape[1:]) == (patch, (32, 32))
