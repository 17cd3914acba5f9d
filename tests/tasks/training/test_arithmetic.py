"""Trained weights and their key: equal keys give equal bits, and what changes the bits changes the key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PROGRAM = """
import sys
from pathlib import Path
from image_longitudinal.core.config import Config, ComputeConfig
from image_longitudinal.models.training.processes import run_in_processes
from image_longitudinal.models.training.tensor_files import tensors_digest
from image_longitudinal.models.vae.train import train_vae
from image_longitudinal.tasks.training.specs import VAETrainingSpec
from tests.models.conftest import VAE_CONFIG, phantoms

def train(report):
    vae, _ = train_vae(phantoms(32, 32), phantoms(4, 32, 1), config.vae, 1, Path(sys.argv[1]), "cpu")
    print(VAETrainingSpec.of(config, "images").digest, tensors_digest(vae.state_dict()))

compute = ComputeConfig(device="cpu", training_threads=int(sys.argv[2]))
config = Config(vae=VAE_CONFIG.model_copy(update={"steps": 20, "width": 0.15}), compute=compute)
run_in_processes(train, (), 1, compute.training_threads, None)
"""


def trained(folder: Path, threads: int, **variables: str) -> tuple[str, str]:
    """Key and digest of a VAE trained in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", PROGRAM, str(folder / "checkpoint"), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    key, digest = done.stdout.split()
    return key, digest


def test_what_changes_the_bits_changes_the_key(tmp_path: Path) -> None:
    one, again, two, plain = (tmp_path / name for name in ("one", "again", "two", "plain"))
    reference = trained(one, 1, OMP_NUM_THREADS="1")
    assert trained(again, 1, OMP_NUM_THREADS="3") == reference  # the configuration decides, not the environment
    threads = trained(two, 2)
    instructions = trained(plain, 1, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41")
    assert threads[1] != reference[1]
    assert threads[0] != reference[0]
    if instructions[1] == reference[1]:
        pytest.skip("this processor computes the same with its plainest instructions")
    assert instructions[0] != reference[0]
