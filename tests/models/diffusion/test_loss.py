"""The objective: min-SNR weights as published, and a loss that a perfect prediction brings to zero."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from models.diffusion.interface import DiffusionModel
from models.diffusion.loss import diffusion_loss, min_snr_weight, signal_to_noise

STEPS = torch.arange(1000)


def scheduler(kind: str = "v_prediction") -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Oracle(DiffusionModel):
    """Knows the clean working tensor, hence the noise; its prediction is off by ``error`` everywhere."""

    def __init__(self, kind: str, working: Tensor, error: float) -> None:
        super().__init__()
        self.scheduler, self.clean, self.error = scheduler(kind), working, error
        self.seen: list[tuple[Tensor, Tensor]] = []

    def context(self, latents: Tensor) -> Tensor:
        return latents + 1

    def rotate(self, axes: torch.Tensor) -> None:
        raise AssertionError("nothing here turns axes")

    def denoise(
        self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, latents: Tensor, context: Tensor
    ) -> Tensor:
        assert torch.equal(context, latents + 1)
        self.seen.append((noisy, timesteps))
        alpha = self.scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean
        return (noise if self.scheduler.config.prediction_type == "epsilon" else velocity) + self.error

    to_working = to_images = None  # type: ignore[assignment]


def test_the_signal_to_noise_ratio_falls_and_is_the_schedules() -> None:
    snr = signal_to_noise(scheduler(), STEPS)
    assert (snr.diff() < 0).all()
    betas = scheduler().betas.double()
    alphas = (1 - betas).cumprod(0)
    torch.testing.assert_close(snr.double(), alphas / (1 - alphas), rtol=1e-3, atol=1e-8)  # float32 products of 1000


def test_weights_of_noise_predictions_are_capped_at_gamma() -> None:
    snr = torch.tensor([0.01, 1.0, 5.0, 10.0, 100.0])
    torch.testing.assert_close(min_snr_weight(snr, "epsilon", 5.0), torch.tensor([1, 1, 1, 0.5, 0.05]))


def test_weights_of_velocity_predictions_have_one_more_in_the_denominator() -> None:
    snr = torch.tensor([0.25, 1.0, 4.0, 9.0])
    torch.testing.assert_close(min_snr_weight(snr, "v_prediction", 4.0), torch.tensor([0.2, 0.5, 0.8, 0.4]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_without_gamma_all_timesteps_weigh_alike(kind: str) -> None:
    assert torch.equal(min_snr_weight(signal_to_noise(scheduler(), STEPS), kind, None), torch.ones(1000))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_of_a_prediction_is_its_weighted_squared_error(kind: str, gamma: float | None) -> None:
    """0.5 off everywhere: 0.25 times the mean weight of the timesteps drawn; float32, and noise solved for."""
    working, latents = torch.randn(64, 2, 4, 4), torch.randn(64, 3)
    oracle = Oracle(kind, working, 0.5)
    options = {"min_snr_gamma": gamma, "noise_offset": 0.1}
    loss = diffusion_loss(oracle, nn.Identity(), oracle.scheduler, working, latents, generator(), **options)  # type: ignore[arg-type]
    timesteps = oracle.seen[0][1]
    weight = min_snr_weight(signal_to_noise(oracle.scheduler, timesteps), kind, gamma)
    assert loss.item() == pytest.approx(0.25 * weight.mean().item(), rel=1e-3)
    perfect = Oracle(kind, working, 0.0)
    zero = diffusion_loss(perfect, nn.Identity(), perfect.scheduler, working, latents, generator(), **options)  # type: ignore[arg-type]
    assert zero.item() == pytest.approx(0, abs=1e-6)


def test_timesteps_cover_the_schedule_and_noise_has_the_asked_for_offset() -> None:
    """Of nothing but noise: variance 1 + 0.5² per pixel, 1/16 + 0.5² of a channel's mean; 8,000 channels, ± 0.02."""
    oracle = Oracle("epsilon", torch.zeros(4000, 2, 4, 4), 0.0)
    diffusion_loss(
        oracle, nn.Identity(), oracle.scheduler, oracle.clean, torch.zeros(4000, 1), generator(), min_snr_gamma=None,
        noise_offset=0.5,
    )  # fmt: skip
    noisy, timesteps = oracle.seen[0]
    assert timesteps.min() < 10
    assert timesteps.max() > 989
    noise = noisy / (1 - oracle.scheduler.alphas_cumprod[timesteps]).sqrt().reshape(-1, 1, 1, 1)
    assert noise.var().item() == pytest.approx(1.25, abs=0.02)
    assert noise.mean((2, 3)).var().item() == pytest.approx(1 / 16 + 0.25, abs=0.02)


def test_the_generator_decides() -> None:
    oracle = Oracle("epsilon", torch.randn(4, 2, 4, 4), 0.5)
    losses = [
        diffusion_loss(oracle, nn.Identity(), oracle.scheduler, oracle.clean, torch.zeros(4, 1), generator(seed),
                       min_snr_gamma=5.0).item()
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert losses[0] == losses[1]
    assert not torch.equal(oracle.seen[0][0], oracle.seen[2][0])
