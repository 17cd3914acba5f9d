"""Two accounts, one workspace, set up as docs/howto/operations.md says: what one makes, the other uses and replaces."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from tests.conftest import ROOT
from tests.e2e.conftest import TINY, cli_arguments, cli_environment
from tests.e2e.test_recovery import manifests

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="other accounts take root")]

GROUP, ANN, BOB = 64001, 64002, 64003  # ids that no system gives
# Runs $4 and what follows where the folder $3, closed to other accounts, is empty but for Python's own folder $1 in it.
OPENED = """
set -e
mkdir -p "$2"; mount --bind "$1" "$2"
mount -t tmpfs -o mode=755 none "$3"
mkdir -p "$1"; mount --bind "$2" "$1"
shift 3; exec "$@"
"""


class Accounts:
    """A folder with a home for each account, and what both share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        for name in ("workspace", "datasets"):  # install --directory --group scans --mode 2775
            (self.shared / name).mkdir(parents=True)
            os.chown(self.shared / name, 0, GROUP)
            (self.shared / name).chmod(0o2775)
        for account in (ANN, BOB):
            (folder / str(account)).mkdir()
            os.chown(folder / str(account), account, account)

    def start(self, account: int, *command: str, **more: str) -> subprocess.Popen[str]:
        """A command of an account that is a member of the group, with umask 002."""
        home = self.folder / str(account)
        login = ["setpriv", f"--reuid={account}", f"--regid={account}", f"--groups={account},{GROUP}"]
        shell = ["sh", "-c", 'umask 002; exec "$@"', "sh"]  # setpriv itself may still look where root may
        python = Path(sys.base_prefix)
        closed = [one for one in python.parents if not one.stat().st_mode & 0o001]
        if closed:  # such as /root: this process alone sees it otherwise
            opened = ["unshare", "--mount", "sh", "-c", OPENED, "sh", python, self.folder / "python", closed[-1]]
            login = [*map(str, opened), *login]
        environment = {**cli_environment(home), "HOME": str(home), "PYTHONPATH": str(ROOT), **more}
        return subprocess.Popen(
            [*login, *shell, *command], env=environment, cwd=home, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, account: int, *command: str, **more: str) -> str:
        process = self.start(account, *command, **more)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        return said

    def generate(self, *more: str) -> list[str]:
        """The command of both, which trains a model unless there is one."""
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
        workspace, output = self.shared / "workspace", self.shared / "datasets" / "data"
        return cli_arguments(
            "generate", "--config", self.folder / "tiny.yaml", "--workspace", workspace, "--output", output, *more
        )


@pytest.fixture
def accounts() -> Iterator[Accounts]:
    folder = Path(tempfile.mkdtemp(prefix="accounts-"))
    folder.chmod(0o755)
    found = Accounts(folder)
    try:
        process = found.start(ANN, *cli_arguments("--version"))
        process.communicate()
        if process.returncode:
            pytest.skip(f"another account cannot run {sys.executable}")
        yield found
    finally:
        shutil.rmtree(folder)


def test_one_account_finishes_with_the_others_models_what_the_other_began(accounts: Accounts) -> None:
    data = accounts.shared / "datasets" / "data"
    first = accounts.start(ANN, *accounts.generate("--set", "dataset.n_subjects=2400"))
    until = time.monotonic() + 900
    while not manifests(data):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)  # leaves its lock file
    first.wait()
    made = manifests(data)
    files = [path for path in accounts.shared.rglob("*") if path.is_file()]
    assert {path.stat().st_gid for path in files} == {GROUP}
    assert not [path for path in files if path.stat().st_mode & 0o060 != 0o060], "the group reads and writes all"

    said = accounts.run(BOB, *accounts.generate("--set", "dataset.n_subjects=2400", "--verbose"))
    assert "Finished in state Completed" in said
    assert verify_dataset(open_root(data)).ok
    assert made.items() <= manifests(data).items(), "shards of the other account are kept"
    owners = {path.stat().st_uid for path in accounts.shared.rglob("*.safetensors")}
    assert owners == {ANN}, "the models were not trained again"


def test_without_the_right_to_write_an_account_is_told_so_in_one_line(accounts: Accounts) -> None:
    (accounts.shared / "workspace").chmod(0o755)
    process = accounts.start(BOB, *accounts.generate())
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert str(accounts.shared / "workspace") in line
    assert "several accounts" in line


def test_workers_of_two_accounts_have_temporary_folders_of_their_own(accounts: Accounts) -> None:
    """Prefect's runner makes runner_storage in the temporary folder, for the first account that comes."""
    folders = set()
    for account in (ANN, BOB):
        (accounts.folder / "tmp").mkdir(exist_ok=True)
        (accounts.folder / "tmp").chmod(0o1777)
        make = ["make", "--silent", "-f", str(ROOT / "deployments/server.mk"), "worker"]
        # In place of Prefect's command: its arguments do not matter.
        program = "PREFECT=sh -c 'echo TMPDIR=$$TMPDIR'"
        text, _ = accounts.start(account, *make, program, TMPDIR=str(accounts.folder / "tmp")).communicate(timeout=60)
        (line,) = (line for line in text.splitlines() if line.startswith("TMPDIR="))
        folder = Path(line.removeprefix("TMPDIR="))
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (account, 0o700)
        folders.add(folder)
    assert len(folders) == 2
