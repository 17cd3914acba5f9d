"""Shared by all tests: real scans, a tiny Stable Diffusion, one torch thread per process, and which tests are slow."""

import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import settings
from platformdirs import user_cache_dir

from tests.paths import ROOT, SHARED_DATA

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# `make test ARGS=...` would hand its ARGS to each make that a test starts.
for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(name, None)

settings.register_profile("tests", deadline=None)  # a busy machine takes long
settings.load_profile("tests")

SLOW = {  # folders and modules that `make check` (and, if "operations", `make test`) leaves out, by marker
    "e2e": ("e2e", "cli/test_first_run.py"),
    "operations": (  # too long for `make test`: it takes `make test-operations`
        "e2e/test_accounts.py", "e2e/test_assets.py", "e2e/test_attempts.py", "e2e/test_damage.py",
        "e2e/test_locales.py", "e2e/test_several_hosts.py", "e2e/test_operator.py", "e2e/test_operator_choices.py",
        "e2e/test_real_scans.py", "e2e/test_recovery.py", "e2e/test_retraining.py", "e2e/test_secrets.py",
        "e2e/test_signals.py", "e2e/test_stable_diffusion.py", "e2e/test_supervision.py", "e2e/test_upgrade.py",
        "storage/io/test_power_cuts.py",
    ),
    "service": (
        "deployments/test_temporary_server.py", "storage/io/test_kill_points.py", "storage/io/test_lease.py",
        "storage/io/test_power_cuts.py", "storage/io/test_s3.py", "tasks/shards/test_host_workers.py",
        "test_foreign_bytes.py",
    ),
    "training": (
        "models/diffusion/test_distillation.py", "models/diffusion/test_train.py",
        "models/evaluation/test_image_informed.py", "models/evaluation/test_subject_likelihood.py",
        "models/evaluation/test_resnet.py",
        "models/nlme/bayes", "models/nlme/estimation", "models/nlme/intervals", "models/nlme/kernels",
        "models/nlme/library", "models/nlme/selection", "tasks/population/test_covariates.py",
        "tasks/population/test_intervals.py",
        "tasks/population/test_methods.py", "tasks/population/test_outcome_kinds.py",
        "models/quality/judge/test_judge.py", "models/quality/test_latent_regressor.py",
        "models/training/test_processes.py", "models/vae/test_private_gradient.py", "models/vae/test_private_train.py",
        "models/vae/test_train.py", "tasks/shards/test_study.py",
        "tasks/training/test_arithmetic.py",
    ),
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Write ArviZ's daily stamp before the workers start: two that import it at once on a new day race for the file."""
    if not hasattr(config, "workerinput"):
        stamp = Path(user_cache_dir("arviz", "arviz"), "daily_warning")
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(date.today().isoformat(), encoding="utf-8")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out ``tests/fuzz``, which takes longer than all others, unless it is named (``make fuzz``)."""
    return True if collection_path.name == "fuzz" and not any("fuzz" in one for one in config.args) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of :data:`SLOW`."""
    for mark, places in SLOW.items():
        for place in places:
            folder = ROOT / "tests" / place
            assert folder.exists(), f"tests/conftest.py names {place}, which does not exist"
            for item in items:
                if item.path == folder or folder in item.path.parents:
                    item.add_marker(mark)


@pytest.fixture(scope="session")
def kermany_sample() -> Path:
    """The folder of real scans (class folders), outside the repository."""
    shared = SHARED_DATA
    folder = shared / "kermany_sample"
    if not folder.is_dir():
        pytest.skip(f"no real scans: {folder} does not exist (set SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's parts at tiny size, in diffusers' layout.

    Random weights: 24 entries per token, an autoencoder that halves twice, the original's noise schedule.
    """
    import torch  # here, as diffusers: most tests need neither
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    folder = tmp_path_factory.mktemp("stable-diffusion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        )
    unet.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / "vae")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the folder of screenshots that tests of the service took, for a person to look at."""
    if (folder := ROOT / "build" / "screenshots").is_dir():
        terminalreporter.write_line(f"screenshots of the Prefect UI: {folder}")
