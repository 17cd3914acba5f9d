"""The objective: min-SNR weights as published, and a loss that a perfect prediction brings to zero."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from image_longitudinal.models.diffusion.loss import EncoderLoss, diffusion_loss, min_snr_weight
from image_longitudinal.models.diffusion.schedules import NoiseSchedule, prediction_target
from image_longitudinal.models.vae.network import VAE
from tests.models.diffusion.conftest import COSINE, KnownModel

KINDS = ["epsilon", "v_prediction", "flow_prediction"]


def noise_schedule(kind: str = "v_prediction") -> NoiseSchedule:
    return NoiseSchedule.of({**COSINE, "prediction_type": kind})


class Oracle(KnownModel):
    """Knows the clean working tensor, hence the noise; its prediction is off by ``error`` everywhere."""

    def __init__(self, kind: str, working: Tensor, error: float) -> None:
        super().__init__({**COSINE, "prediction_type": kind}, nn.Identity())
        self.noise_schedule, self.clean, self.error = noise_schedule(kind), working, error
        self.seen: list[tuple[Tensor, Tensor]] = []

    def context(self, latents: Tensor) -> Tensor:
        return latents + 1

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        assert torch.equal(context, z + 1)
        self.seen.append((noisy, timesteps))
        own = self.noise_schedule
        alpha, sigma = (values[timesteps].reshape(-1, 1, 1, 1) for values in (own.alpha, own.sigma))
        noise = (noisy - alpha * self.clean) / sigma
        return prediction_target(self.clean, noise, alpha, sigma, own.prediction_type) + self.error

    def loss(self, latents: Tensor, seed: int = 0, **options: Any) -> dict[str, Tensor]:
        """The figures of one step whose timesteps and noise are those of ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        options.setdefault("min_snr_gamma", None)
        return diffusion_loss(self, self.denoiser, self.noise_schedule, self.clean, latents, generator, **options)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_levels_are_those_of_diffusers(kind: str) -> None:
    own, scheduler = noise_schedule(kind), DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind)
    clean, noise, t = torch.randn(9, 2, 4, 4), torch.randn(9, 2, 4, 4), torch.arange(9) * 120
    a, s = (level[t].reshape(-1, 1, 1, 1) for level in (own.alpha, own.sigma))
    torch.testing.assert_close(a * clean + s * noise, scheduler.add_noise(clean, noise, t), atol=1e-5, rtol=1e-5)
    velocity = prediction_target(clean, noise, a, s, "v_prediction")
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, t), atol=1e-5, rtol=1e-5)


def test_a_flow_goes_straight() -> None:
    own = noise_schedule("flow_prediction")
    torch.testing.assert_close(own.alpha + own.sigma, torch.ones(1000))
    assert own.sigma[-1] == 1
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(prediction_target(clean, noise, 0.3, 0.7, "flow_prediction"), noise - clean)


@pytest.mark.parametrize(
    ("kind", "gamma", "expected"),
    [("epsilon", 5.0, [1, 1, 1, 0.5, 0.05]), ("v_prediction", 4.0, [0.01 / 1.01, 0.5, 4 / 6, 4 / 11, 4 / 101])],
)
def test_weights_are_capped_at_gamma(kind: str, gamma: float, expected: list[float]) -> None:
    """Those of velocity predictions have one more in the denominator."""
    snr = torch.tensor([0.01, 1.0, 5.0, 10.0, 100.0])
    torch.testing.assert_close(min_snr_weight(snr, kind, gamma), torch.tensor(expected))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_and_velocity_weigh_errors_of_the_clean_tensor_alike(kind: str) -> None:
    """An error e of the clean tensor is e·α/σ of noise and e/σ of a velocity: min(snr, γ)·e² once weighed."""
    own = noise_schedule(kind)
    kept = slice(1, 999)  # σ or α is 0, or nearly, at the ends
    alpha, sigma = own.alpha[kept].double(), own.sigma[kept].double()
    snr = (alpha / sigma).square()
    factor = alpha / sigma if kind == "epsilon" else 1 / sigma
    weighed = min_snr_weight(snr, kind, 5.0) * factor.square()
    torch.testing.assert_close(weighed, snr.clamp(max=5.0), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("kind", "gamma"), [*((kind, None) for kind in KINDS), ("flow_prediction", 5.0)])
def test_without_gamma_and_in_a_flow_all_timesteps_weigh_alike(kind: str, gamma: float | None) -> None:
    snr = torch.logspace(-3, 3, 20)
    assert torch.equal(min_snr_weight(snr, kind, gamma), torch.ones(20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_of_a_prediction_is_its_weighted_squared_error(kind: str, gamma: float | None) -> None:
    """0.5 off everywhere: 0.25 times the mean weight of the sampled timesteps; float32, and noise solved for."""
    working, latents = torch.randn(64, 2, 4, 4), torch.randn(64, 3)
    oracle, perfect = Oracle(kind, working, 0.5), Oracle(kind, working, 0.0)
    loss, zero = (model.loss(latents, min_snr_gamma=gamma, noise_offset=0.1)["loss"] for model in (oracle, perfect))
    timesteps = oracle.seen[0][1]
    snr = (oracle.noise_schedule.alpha / oracle.noise_schedule.sigma)[timesteps].square()
    assert loss.item() == pytest.approx(0.25 * min_snr_weight(snr, kind, gamma).mean().item(), rel=1e-3)
    assert zero.item() == pytest.approx(0, abs=1e-6)


def test_timesteps_cover_the_schedule_noise_has_the_asked_for_offset_and_the_generator_decides() -> None:
    """Of nothing but noise: variance 1 + 0.5² per pixel, 1/16 + 0.5² of a channel's mean; 8,000 channels, ± 0.02."""
    oracle = Oracle("epsilon", torch.zeros(4000, 2, 4, 4), 0.0)
    oracle.loss(torch.zeros(4000, 1), noise_offset=0.5)
    noisy, timesteps = oracle.seen[0]
    assert timesteps.min() < 10
    assert timesteps.max() > 989
    noise = noisy / oracle.noise_schedule.sigma[timesteps].reshape(-1, 1, 1, 1)
    assert noise.var().item() == pytest.approx(1.25, abs=0.02)
    assert noise.mean((2, 3)).var().item() == pytest.approx(1 / 16 + 0.25, abs=0.02)
    oracle = Oracle("epsilon", torch.randn(4, 2, 4, 4), 0.5)
    losses = [oracle.loss(torch.zeros(4, 1), seed, min_snr_gamma=5.0)["loss"].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert not torch.equal(oracle.seen[0][0], oracle.seen[2][0])


def test_the_encoders_loss_reads_z_from_the_clean_image_that_was_predicted() -> None:
    torch.manual_seed(0)
    vae = VAE(32, 3, 1 / 64).eval().requires_grad_(False)
    images = torch.rand(6, 1, 32, 32)
    read = vae.encode(images)
    reading = EncoderLoss(vae, torch.tensor([1.0, 0.5, 0.0]), 0.25)
    off = read + torch.tensor([0.0, 1.0, 7.0])  # the third cannot be read and does not count
    torch.testing.assert_close(reading.squared_error(images, off), torch.full((6,), 0.5 / 1.5))
    for kind in KINDS:
        perfect = Oracle(kind, images, 0.0)
        right, wrong = (perfect.loss(latents, 3, encoder_loss=reading) for latents in (read, off))
        kept = perfect.noise_schedule.alpha[perfect.seen[0][1]].square().mean()
        assert right["reading"].item() == pytest.approx(0, abs=1e-4)
        assert wrong["reading"].item() == pytest.approx((kept * 0.5 / 1.5).item(), rel=0.02)
        assert wrong["loss"].item() == pytest.approx(0.25 * wrong["reading"].item(), rel=0.02, abs=1e-5)
