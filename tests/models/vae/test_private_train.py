"""Private training of a VAE from its first step to its card's figures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from image_longitudinal.core.config import PrivacyConfig, VAEConfig
from image_longitudinal.models.imaging.assembly import assemble_vae
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.quality.judge.judge import RealScans
from image_longitudinal.models.quality.membership import membership_figures
from image_longitudinal.models.registry.metadata import NetworkConfigs, VAETraining
from image_longitudinal.models.training.privacy_accounting import epsilon_of
from image_longitudinal.models.vae import private_train as module
from image_longitudinal.models.vae.augmentation import centre_view
from image_longitudinal.models.vae.network import VAE
from image_longitudinal.models.vae.private_train import train_private_vae
from image_longitudinal.models.vae.train import build_vae
from tests.models.conftest import VAE_CONFIG, phantoms

PATIENTS = np.repeat(np.arange(12), 2)  # two scans each
MEMBERS, STEPS = 12, 300  # of scans; of a training that memorises


def config(dp: PrivacyConfig | None, **changes: object) -> VAEConfig:
    return VAEConfig.model_validate({**VAE_CONFIG.model_dump(), "batch_size": 4, "dp": dp, **changes})


def train(folder: Path, settings: VAEConfig, seeds: range | None = None) -> tuple[VAE, VAETraining]:
    pytest.importorskip("opacus")
    numbers = iter(seeds or ())
    generators = {"generators": lambda: torch.Generator().manual_seed(next(numbers))} if seeds else {}
    images = phantoms(len(PATIENTS), 32)
    return train_private_vae(
        images, PATIENTS, phantoms(9, 32, 1), settings, 1, folder / "vae.checkpoint", "cpu", **generators
    )


def test_the_record_is_what_was_done(tmp_path: Path) -> None:
    """As many samples as steps, at the rate and with the noise that ε was computed from; figures of public images."""
    settings = config(PrivacyConfig(epsilon=4, max_grad_norm=0.5), steps=6)
    used = []

    def generator() -> torch.Generator:
        used.append(torch.Generator().manual_seed(len(used)))
        return used[-1]

    pytest.importorskip("opacus")
    images = phantoms(len(PATIENTS), 32)
    vae, figures = train_private_vae(
        images, PATIENTS, images[:0], settings, 1, tmp_path / "c", "cpu", generators=generator
    )
    found = figures.privacy
    assert found is not None
    assert (found.steps, found.patients, found.sampling_rate) == (len(used), 12, 4 / 12) == (6, 12, 4 / 12)
    assert 3.99 <= found.epsilon <= 4
    assert found.epsilon == epsilon_of(found.noise_multiplier, 4 / 12, 6, 1e-5)
    assert figures.validation_mse is None
    assert {key for row in figures.history for key in row} == {"step", "loss", "mse"}
    assert len(figures.kl) == settings.latent_dim
    assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in vae.modules()), "batch norm looks at all patients"
    assert torch.equal(vae.shift, torch.zeros(5)), "the latent space is not fitted to scans"
    assert torch.equal(vae.transform, torch.eye(5))
    again = assemble_vae(NetworkConfigs(vae=settings), vae.state_dict())
    z = torch.randn(3, 5)
    assert torch.equal(again.decode(z), vae.decode(z))


def test_what_is_recorded_of_no_training_is_of_no_scan(tmp_path: Path) -> None:
    """With the first step's figures taken before any gradient counts, other scans give the same ones."""
    first = train(tmp_path / "a", config(PrivacyConfig(noise_multiplier=2.0), steps=1), range(1))[1].history[0]
    pytest.importorskip("opacus")
    others = phantoms(len(PATIENTS), 32, 5)
    settings = config(PrivacyConfig(noise_multiplier=2.0), steps=1)
    generators = iter([torch.Generator().manual_seed(0)])
    again = train_private_vae(
        others, PATIENTS, others[:0], settings, 1, tmp_path / "b", "cpu", generators=lambda: next(generators)
    )[1].history[0]
    assert first == again


def test_the_seed_repeats_neither_sample_nor_noise(tmp_path: Path) -> None:
    """Whoever knows seed and code could otherwise subtract the noise; a test may give generators of its own."""
    settings = config(PrivacyConfig(noise_multiplier=1.0), steps=2)
    secret, other = (train(tmp_path / name, settings)[0].state_dict() for name in "ab")
    assert not torch.equal(secret["encoder.mean.bias"], other["encoder.mean.bias"])
    known, same = (train(tmp_path / name, settings, range(2))[0].state_dict() for name in "cd")
    assert all(torch.equal(known[key], same[key]) for key in known)


def by_heart(scans: np.ndarray, settings: VAEConfig) -> VAE:
    """A VAE of the same architecture that has seen nothing but these scans, again and again, without noise."""
    vae, view = build_vae(settings, 1).train(), centre_view(to_unit(scans, "cpu"))
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (vae(view, torch.zeros(len(view), settings.latent_dim))[0] - view).square().mean().backward()
        optimizer.step()
    return vae.eval()


def test_scans_that_a_network_knows_by_heart_are_told_and_private_ones_are_not(tmp_path: Path) -> None:
    """Blocks of random grey, of which one says nothing of another: what fits them was learned from them.

    With 12 and 12 scans the AUC of guesses has a standard error of .12, so a private one may be .25 away.
    """
    pytest.importorskip("opacus")
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 256, (2 * MEMBERS, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    sides = [RealScans(part, np.arange(MEMBERS).astype(str)) for part in (blocks[:MEMBERS], blocks[MEMBERS:])]
    settings = config(PrivacyConfig(epsilon=1), steps=20, latent_dim=16)
    private, _ = train_private_vae(
        blocks[:MEMBERS], np.arange(MEMBERS), blocks[:0], settings, 1, tmp_path / "b", "cpu",
        generators=iter([torch.Generator().manual_seed(i) for i in range(20)]).__next__,
    )  # fmt: skip
    memorising = by_heart(blocks[:MEMBERS], settings)
    known, hidden = (membership_figures(one, None, *sides, seed=1).vae_auc for one in (memorising, private))
    assert known.value > 0.85
    assert known.low > 0.7
    assert abs(hidden.value - 0.5) < 0.25


def test_a_private_vae_runs_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(module.distributed, "get_world_size", lambda: 2)
    with pytest.raises(module.ModelError, match=r"private training runs in one process .*compute\.render_processes=1"):
        train(tmp_path, config(PrivacyConfig(epsilon=1), steps=1))
