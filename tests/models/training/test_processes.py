"""Training over several processes: real ones, on CPUs with gloo; the same path runs one per GPU with NCCL."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from image_longitudinal.core.config import ComputeConfig, DiffusionConfig
from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.diffusion.train import build_diffusion, train_diffusion
from image_longitudinal.models.training.processes import (
    Reporter,
    check_divisible,
    mean_over_processes,
    rank,
    run_in_processes,
    training_processes,
)
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors
from image_longitudinal.models.vae.train import build_vae, train_vae
from tests.models.conftest import VAE_CONFIG, phantoms

VAE = VAE_CONFIG.model_copy(update={"steps": 8, "cycle_weight": 0.3, "validate_every": 4})
DIFFUSION = DiffusionConfig(
    kind="residual", image_size=32, channels=(16,), steps=5, batch_size=8, learning_rate=1e-3, ema_decay=0.5,
    encoder_weight=0.1,
)  # fmt: skip


def train_both(folder: Path, report: Reporter | None) -> None:
    """The real trainings, each process writing what it ended with."""
    images, new = phantoms(40, 32, 1), phantoms(8, 32, 2)
    given = build_vae(VAE_CONFIG, 1)
    model, _ = train_diffusion(given, images, new, DIFFUSION, 1, folder / "diffusion", "cpu", report)
    vae, figures = train_vae(images, new, VAE, 1, folder / "vae", "cpu", report)
    save_tensors(folder / f"diffusion-{rank()}", model.denoiser.state_dict())
    validations = [row["validation"] for row in figures.history if "validation" in row]
    save_tensors(folder / f"vae-{rank()}", {**vae.state_dict(), "validations": torch.tensor(validations)})


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    reports: list[Any] = []
    for n, name in ((1, "one"), (2, "two")):
        run_in_processes(train_both, (tmp_path / name,), n, 1, reports.append)
    assert {progress.name for progress in reports} == {"vae", "diffusion"}
    one, two, other = (
        load_tensors(tmp_path / name)[0] for name in ("one/diffusion-0", "two/diffusion-0", "two/diffusion-1")
    )
    initial = build_diffusion(build_vae(VAE_CONFIG, 1), DIFFUSION, 1).denoiser.state_dict()
    assert all(torch.equal(two[key], other[key]) for key in two)
    # Sums in another order: Adam makes a whole step of a next-to-nothing gradient's sign, so some entries differ.
    assert _length(two, one) < 0.02 * _length(one, initial)
    # A VAE's batch statistics are those of its own rows: its weights agree between the two, not with one process's.
    vae, same = (load_tensors(tmp_path / name)[0] for name in ("two/vae-0", "two/vae-1"))
    for key in vae:
        if "running" not in key and key not in ("shift", "transform"):
            assert torch.equal(vae[key], same[key]), key
    assert len(vae["validations"]) == 2


def _length(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(torch.stack([(a[key] - b[key]).double().square().sum() for key in a]).sum().sqrt())


def fail(how: str, report: Reporter | None) -> None:
    """Fails in the second process, while the first waits for it."""
    if rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        check_divisible("vae", 7)
        raise ValueError(how)
    mean_over_processes(torch.ones(()))


@pytest.mark.parametrize(
    ("how", "message"),
    [("refused", r"vae\.batch_size cannot be divided.*2 processes; got 7"), ("killed", "lost|failed")],
)
def test_an_error_of_one_process_is_raised_and_no_process_is_left(how: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run_in_processes(fail, (how,), 2, 1, lambda _: None)
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_cpu_trains_in_one_process() -> None:
    assert training_processes(ComputeConfig(device="cpu", render_processes=4)) == 1
