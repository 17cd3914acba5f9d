"""An upgrade of Prefect and of the project as docs/howto/operations.md has it, the way back, and the upgrade again."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.postgres import postgres
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

OLDER = "3.7.8"  # whose database lacks indexes that the present one adds
RETIRED = "crash silent runs"
ROOMS = ("image_longitudinal", "core", "deployments", "flows", "models", "storage", "tasks")
MAIN = "verify-all/verify-all"


@pytest.fixture(scope="module")
def older_prefect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an older Prefect, which needs the same other packages."""
    folder = tmp_path_factory.mktemp("older")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"prefect=={OLDER}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Prefect {OLDER} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder


class Checkout(Service):
    """A service from a folder of its own, whose files and Prefect are those of an earlier version at first."""

    def __init__(self, home: Path, older_prefect: Path) -> None:
        super().__init__(home)
        self.folder, self.older_prefect = home / "checkout", older_prefect
        self.variables_of_make: tuple[str, ...] = ()
        for room in ROOMS:
            shutil.copytree(
                ROOT / room, self.folder / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )

    def make(self, target: str, *variables: str) -> str:
        return super().make(target, *self.variables_of_make, *variables)

    def be_old(self) -> None:
        """``git checkout`` of the old commit, ``make setup``."""
        self.environment["PYTHONPATH"] = f"{self.older_prefect}:{self.folder}"
        # its server may hang if these look at an automation while SQLite writes it (PrefectHQ/prefect issue 23055)
        self.environment["PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED"] = "false"
        file = self.folder / "deployments" / "automations.yaml"
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        content["automations"].append({**content["automations"][0], "name": RETIRED})
        content["retired"].remove(RETIRED)
        file.write_text(yaml.safe_dump(content), encoding="utf-8")

    def be_new(self) -> None:
        """``git pull``, ``make setup``."""
        self.environment["PYTHONPATH"] = str(self.folder)
        self.environment.pop("PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED", None)
        name = Path("deployments") / "automations.yaml"
        shutil.copy(ROOT / name, self.folder / name)

    def serve(self) -> str:
        """Start the server; its version."""
        self.start_server(*self.variables_of_make)
        return str(self.request("admin/version"))

    def end(self) -> None:
        """``make stop``."""
        assert "stopped server" in self.make("stop")
        self.processes.pop("server").wait()

    def automations(self) -> set[str]:
        return {one["name"] for one in self.ask("automations")}


@contextmanager
def database(kind: str) -> Iterator[tuple[str, ...]]:
    """What make is given for it."""
    with postgres() if kind == "PostgreSQL" else nullcontext() as address:
        yield (f"DATABASE={address}",) if address else ()


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_an_upgrade_keeps_what_the_server_knows_and_can_be_taken_back(
    kind: str, older_prefect: Path, tmp_path: Path
) -> None:
    service = Checkout(tmp_path, older_prefect)
    backup = tmp_path / "prefect.backup"

    def paused() -> bool:
        return bool(service.request(f"deployments/name/{MAIN}")["paused"])

    try:
        with database(kind) as service.variables_of_make:
            service.be_old()
            assert service.serve() == OLDER
            service.make("deploy")
            run = service.run(MAIN)
            service.request(f"deployments/{service.request(f'deployments/name/{MAIN}')['id']}/pause_deployment", {})
            assert RETIRED in service.automations()

            service.end()
            service.make("backup", f"FILE={backup}")
            service.be_new()
            assert service.serve() == version("prefect")
            assert f"removed the automation '{RETIRED}'" in service.make("deploy")
            assert RETIRED not in service.automations()
            assert service.request(f"flow_runs/{run}")["name"]
            assert paused()
            later = service.run(MAIN)

            service.end()
            service.be_old()
            service.make("restore", f"FILE={backup}")
            assert service.serve() == OLDER
            assert RETIRED in service.automations()
            assert paused()
            known = {one["id"] for one in service.ask("flow_runs")}
            assert run in known
            assert later not in known

            service.end()
            service.be_new()
            assert service.serve() == version("prefect")
            assert service.request(f"flow_runs/{run}")["name"]
    finally:
        service.stop()
