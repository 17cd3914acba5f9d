"""The published predictor, tiny: it learns a position from images, resumes, and stops when it no longer learns."""

from pathlib import Path

import numpy as np

from models.evaluation.resnet import Regressor, train_resnet
from models.phantom import render
from models.recoverability import probe_latents, r_squared

SETTINGS = {"batch_size": 16, "width": 0.125, "precision": "no", "seed": 1, "device": "cpu"}


def test_it_is_a_resnet18_at_full_width() -> None:
    weights = sum(p.numel() for name, p in Regressor(3, 1.0).named_parameters())
    assert weights == 11_171_779  # torchvision's resnet18 with one channel in, 11,170,240 + 3 · 513 of the head


def test_it_learns_from_images_and_a_restart_gives_the_same_network(tmp_path: Path) -> None:
    latents, seeds = probe_latents(1, 400, 4)
    images = render(latents, seeds, 32)
    learn, targets = images[100:], latents[100:, :1].astype(float)
    read = train_resnet(learn, targets, steps=120, checkpoint=tmp_path / "one", **SETTINGS)  # type: ignore[arg-type]
    assert r_squared(latents[:100, :1], read(images[:100]))[0] > 0.5, "vertical position is the easiest thing to see"
    again = train_resnet(learn, targets, steps=120, checkpoint=tmp_path / "one", **SETTINGS)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again(images[:100]), read(images[:100]))


def test_it_stops_where_there_is_nothing_to_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, told = rng.integers(0, 256, (80, 32, 32), dtype=np.uint8), []
    train_resnet(
        images, rng.normal(size=(80, 2)), steps=400, checkpoint=tmp_path / "none",
        report=lambda progress: told.append(progress.step), **SETTINGS,
    )  # type: ignore[arg-type]  # fmt: skip
    assert told[-1] < 400
