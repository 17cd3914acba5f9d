"""The published predictor, tiny: it learns a position from images, resumes, and stops when it no longer learns."""

from pathlib import Path

import numpy as np

from image_longitudinal.core.config import ResNetConfig
from image_longitudinal.models.evaluation.resnet import VALIDATION, Regressor, train_resnet
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.quality.recoverability import probe_latents, r_squared


def small(steps: int) -> ResNetConfig:
    return ResNetConfig(steps=steps, batch_size=16, width=0.125)


def test_it_is_a_resnet18_at_full_width() -> None:
    weights = sum(p.numel() for name, p in Regressor(3, 1.0).named_parameters())
    assert weights == 11_171_779  # torchvision's resnet18 with one channel in, 11,170,240 + 3 · 513 of the head


def test_it_learns_from_images_and_a_restart_gives_the_same_network(tmp_path: Path) -> None:
    latents, seeds = probe_latents(1, 400, 4)
    images = render(latents, seeds, 32)
    learn, targets = images[100:], latents[100:, :1].astype(float)
    read = train_resnet(learn, targets, small(120), seed=1, device="cpu", checkpoint=tmp_path / "one")
    assert r_squared(latents[:100, :1], read(images[:100]))[0] > 0.5, "vertical position is the easiest thing to see"
    again = train_resnet(learn, targets, small(120), seed=1, device="cpu", checkpoint=tmp_path / "one")
    np.testing.assert_array_equal(again(images[:100]), read(images[:100]))


def test_it_stops_where_what_it_learns_does_not_hold_for_others(tmp_path: Path) -> None:
    """Brighter is more where it learns, and less where it is validated."""
    rng, steps = np.random.default_rng(0), []
    level = rng.integers(20, 236, 80)
    images = (level[:, None, None] + rng.integers(-20, 20, (80, 32, 32))).astype(np.uint8)
    held_out = np.arange(80) % VALIDATION == VALIDATION - 1
    targets = np.where(held_out, -1, 1) * (level / 128 - 1)
    train_resnet(
        images, targets[:, None], small(400), seed=1, device="cpu", checkpoint=tmp_path / "none",
        report=lambda progress: steps.append(progress.step),
    )  # fmt: skip
    assert steps[-1] < 400
