"""What one patient can do to the gradient of a private step, on gradients of a real VAE."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from image_longitudinal.core.config import PrivacyConfig, VAEConfig
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.vae.loss import make_perception
from image_longitudinal.models.vae.private_gradient import (
    PATIENTS_AT_ONCE,
    clipped_sum,
    sampled_scans,
    secret_generator,
    with_noise,
)
from image_longitudinal.models.vae.private_train import image_loss
from image_longitudinal.models.vae.train import build_vae
from tests.models.conftest import VAE_CONFIG, phantoms

CONFIG = VAEConfig(**{**VAE_CONFIG.model_dump(), "dp": PrivacyConfig(epsilon=1), "free_bits": 0.1})
ROUNDING = 1e-5  # of float32 sums over 28,000 weights, relative
NOISE = torch.randn(32, CONFIG.latent_dim, generator=torch.Generator().manual_seed(3))  # of each place in a batch

Sum = dict[str, Tensor]


def summed(images: np.ndarray, bound: float) -> Sum:
    vae = build_vae(CONFIG, 1).train()
    noise = NOISE[: len(images)]
    loss = partial(image_loss, vae, config=CONFIG, step=50, perception=make_perception(None))
    return clipped_sum(loss, dict(vae.named_parameters()), to_unit(images, "cpu"), noise, bound)


def norm(found: Sum) -> float:
    return float(torch.cat([value.flatten().double() for value in found.values()]).norm())


def less(a: Sum, b: Sum) -> Sum:
    return {name: a[name] - b[name] for name in a}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return phantoms(PATIENTS_AT_ONCE + 3, 32)


@pytest.mark.parametrize("bound", [0.01, 1.0])
def test_one_patient_more_changes_the_sum_by_at_most_the_bound(images: np.ndarray, bound: float) -> None:
    """The last patient is far from all others, and is in another part of the batch; all clip, as they must here."""
    odd = images.copy()
    odd[-1] = np.random.default_rng(0).integers(0, 2, (32, 32)) * 255
    alone = [norm(summed(one[None], 1e9)) for one in odd]
    assert min(alone) > bound, "nothing would be clipped, so nothing would be tested"
    change = norm(less(summed(odd, bound), summed(odd[:-1], bound)))
    assert change == pytest.approx(bound, rel=100 * ROUNDING)
    assert norm(summed(odd, bound)) <= len(odd) * bound * (1 + ROUNDING)


def test_small_gradients_are_not_scaled(images: np.ndarray) -> None:
    """Under a bound that none reaches, the sum is that of ordinary gradients, taken one image after another."""
    vae = build_vae(CONFIG, 1).train()
    noise = NOISE[:3]
    for image, eps in zip(to_unit(images[:3], "cpu"), noise, strict=True):
        parameters = dict(vae.named_parameters())
        image_loss(vae, parameters, image, eps, config=CONFIG, step=50, perception=make_perception(None)).backward()
    found = summed(images[:3], 1e9)
    difference = {name: found[name] - value.grad for name, value in vae.named_parameters() if value.grad is not None}
    assert norm(difference) < 1e-4 * norm(found)


def test_no_patient_changes_what_another_contributes(images: np.ndarray) -> None:
    """The sum of two is that of one and of the other, whoever they are: no norm, no free bits look at both."""
    together = less(summed(images[:2], 0.5), summed(images[:1], 0.5))
    other = images[[5, 1]]
    beside_another = less(summed(other, 0.5), summed(other[:1], 0.5))
    assert norm(less(together, beside_another)) < 1e-4


def test_a_gradient_that_is_not_finite_counts_as_none(images: np.ndarray) -> None:
    vae = build_vae(CONFIG, 1).train()

    def loss(parameters: dict[str, Tensor], image: Tensor, _: Tensor) -> Tensor:
        return (parameters["encoder.mean.bias"].sum() + 1) * torch.where(image.mean() > 0.9, torch.nan, 1.0)

    batch = torch.zeros(3, 1, 4, 4)
    batch[1] = 1
    found = clipped_sum(loss, dict(vae.named_parameters()), batch, torch.zeros(3, 1), 1.0)
    assert norm(found) == pytest.approx(2, rel=ROUNDING)


def test_nobody_sampled_is_a_step_of_noise_alone(images: np.ndarray) -> None:
    found = summed(images[:0], 1.0)
    assert norm(found) == 0
    noisy = with_noise(found, 0.7, 4, torch.Generator().manual_seed(1))
    values = torch.cat([value.flatten() for value in noisy.values()])
    assert float(values.std()) == pytest.approx(0.7 / 4, rel=0.02), "sd of 28,000 numbers is known to .4 %"
    assert abs(float(values.mean())) < 4 * 0.7 / 4 / len(values) ** 0.5


def test_patients_are_drawn_apart_with_one_scan_each() -> None:
    """Rates within four standard errors of 4,000 draws: of each patient, of two together, of each of three scans."""
    patients = np.array([7, 0, 7, 3, 7])
    n, rate = 4000, 0.3
    drawn = np.zeros((n, 5), bool)
    for step in range(n):
        drawn[step, sampled_scans(patients, rate, torch.Generator().manual_seed(step))] = True
    of = {number: drawn[:, patients == number] for number in (0, 3, 7)}
    assert of[7].sum(1).max() == 1, "never two scans of one patient"
    for number in of:
        assert of[number].any(1).mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / n))
    both = (of[0].any(1) & of[7].any(1)).mean()
    assert both == pytest.approx(rate**2, abs=4 * np.sqrt(rate**2 / n))
    np.testing.assert_allclose(of[7].mean(0), rate / 3, atol=4 * np.sqrt(rate / 3 / n))


def test_secret_generators_differ() -> None:
    assert len({float(torch.rand(1, generator=secret_generator())) for _ in range(20)}) == 20
