"""A Prefect server for in-process flows, the command line as a subprocess, and a configuration that takes seconds."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prefect import settings
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.presets import load_config
from tests.e2e.postgres import postgres
from tests.e2e.service import Service, cli_environment

TINY = {
    "images": {"n_phantoms": 90, "min_images": 20},
    "vae": {
        "kind": "convolutional", "image_size": 32, "latent_dim": 6, "width": 0.15, "steps": 30, "batch_size": 16,
        "learning_rate": 1.5e-3, "kl_weight": 0.03, "kl_warmup_steps": 5, "cycle_weight": 0.3,
    },
    "diffusion": {
        "kind": "residual", "image_size": 32, "channels": [32, 32], "steps": 20, "batch_size": 16, "min_snr_gamma": 5.0,
    },
    "probe": {"n_images": 64, "scheduler": "unipc", "steps": 4},
    "generator": {"scheduler": "unipc", "steps": 4, "batch_size": 16},
    "dataset": {"n_subjects": 60, "shard_size": 16},
    "gates": {"latents": -1e6, "recoverability": -1e6, "fidelity": 1e6, "copies": 1},  # nothing is learned in seconds
    "compute": {"training_threads": 1},
}  # fmt: skip


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One temporary Prefect server and result store for the flows that tests run in this process."""
    chosen = {
        settings.PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results"),
        settings.PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with prefect_test_harness(server_startup_timeout=180), settings.temporary_settings(chosen):
        yield


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration as a file."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Callable[..., Config]:
    """The tiny configuration with overrides: ``tiny("seed=2")``."""
    return lambda *overrides: load_config("demo", tiny_file, overrides)


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PREFECT_HOME of the commands; shared, because creating its database takes long."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def command(
    tmp_path: Path, prefect_home: Path, prefect_server: None
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The console script in a temporary folder, with a Prefect server configured.

    Without a server each command would start a temporary one, which takes half of the time of a short command.
    """
    environment = {**cli_environment(prefect_home), "PREFECT_API_URL": str(PREFECT_API_URL.value())}

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cli_arguments(*arguments), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
            check=False, **options,  # type: ignore[call-overload]
        )  # fmt: skip

    return run


@contextmanager
def running(service: Service, *variables: str) -> Iterator[Service]:
    """A running server with everything deployed; all its processes are stopped at the end."""
    try:
        service.start_server(*variables)
        service.make("deploy")
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="package")  # an idle server takes a tenth of a core from the tests that follow
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on SQLite."""
    with running(Service(tmp_path_factory.mktemp("service"))) as service:
        yield service


@pytest.fixture(scope="package")
def large_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on PostgreSQL, with a password, and half as patient with silent runs (heartbeats come every 30 s)."""
    service = Service(tmp_path_factory.mktemp("large-service"), PREFECT_API_AUTH_STRING="operator:a password")
    with postgres() as database, running(service, f"DATABASE={database}", "SILENCE=40"):
        yield service


def cli_arguments(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("image-longitudinal")), *map(str, arguments)]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
