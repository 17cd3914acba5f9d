"""Ctrl-C, SIGTERM and a closed terminal: one line, the right status, soon, and nothing left running or locked."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.e2e

# A command ends at most 2 seconds after a signal (image_longitudinal.cli.signals); the rest is for a host that runs
# other tests, where a process may wait that long for a core.
SECONDS = 6.0
PHANTOM = ("generator.backend=phantom", "generator.image_size=32", "probe.n_images=64", "dataset.eta_dims=[0, 1, 2]")
DONE = re.compile(r"interrupted: ([\d,]+) of ([\d,]+) \w+ are done; give the same command again to go on")
PROGRESS = re.compile(r": at work for | to go, ")  # may be printed between the signal and its handling
START_OVER = "interrupted: give the same command again to start over"


@pytest.fixture(scope="module")
def dataset(prefect_server: None, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published data set of 100 shards."""
    folder = tmp_path_factory.mktemp("published")
    config = tiny(*PHANTOM, "dataset.n_subjects=400", "dataset.shard_size=4")
    return Path(generate_dataset(str(folder / "data"), config=config, workspace=str(folder / "work")))


def ended(terminal: Terminal, status: int, seconds: float = SECONDS) -> str:
    """The last line, after checking the status, the time, and that nothing was printed besides and nothing runs."""
    began, seen = time.monotonic(), len(terminal.output)
    assert terminal.ended(seconds + 60) == status, terminal.output[-3000:]
    assert time.monotonic() - began < seconds
    time.sleep(0.2)  # killed processes leave the table
    assert terminal.left_running() == []
    after = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output[seen:].rpartition("^C")[2])
    lines = [line for line in re.split(r"[\r\n]+", after) if line.strip() and not PROGRESS.search(line)]
    assert len(lines) == 1, lines
    return lines[0]


def generating(data: Path) -> tuple[str, ...]:
    """A command that generates more shards than a test waits for."""
    overrides = (*PHANTOM, "dataset.n_subjects=4000", "dataset.shard_size=8")
    return ("generate", "--output", str(data), *(f"--set={one}" for one in overrides))


def finished(data: Path) -> dict[str, int]:
    """The shard manifests, with the time of each."""
    return {path.name: path.stat().st_mtime_ns for path in data.glob("shards/*.json")}


def test_ctrl_c_while_drawing_keeps_what_is_done(tmp_path: Path, prefect_home: Path) -> None:
    data = tmp_path / "data"
    with Terminal(tmp_path, prefect_home, *generating(data)) as terminal:
        terminal.wait_for(lambda: len(finished(data)) > 3)
        terminal.press_ctrl_c()
        line = ended(terminal, 130)
    assert (found := DONE.fullmatch(line)), line
    assert 0 < int(found[1].replace(",", "")) < 4000
    assert not (data / LEASE).exists()
    with hold_lease(open_root(data)):
        pass
    made = finished(data)
    with Terminal(tmp_path, prefect_home, *generating(data)) as terminal:
        terminal.wait_for(lambda: len(finished(data)) > len(made) + 3)
        terminal.process.send_signal(signal.SIGTERM)
        assert DONE.fullmatch(ended(terminal, 143))
    assert made.items() <= finished(data).items()


class Case(NamedTuple):
    """A command, and a sign in its folder that it is in the middle of its work."""

    arguments: tuple[str, ...]
    begun: str  # a pattern of paths
    goes_on: bool  # whether the last line promises that


SIZES = ("images.n_phantoms=200", "vae.image_size=32", "diffusion.image_size=32", "diffusion.steps=100000")
TRAINING = tuple(f"--set={one}" for one in SIZES)
CASES = {
    "train": Case(("train", *TRAINING), "workspace/training/*/*", True),
    "simulate": Case(("simulate", "trial.csv", "--subjects", "4000000"), ".trial.csv.*.tmp", False),
    "evaluate": Case(("evaluate", "DATA"), "workspace/evaluation/*", True),
    "publish": Case(("publish", "DATA", "copy"), "copy/shards/00003.json", True),
}


@pytest.mark.operations
@pytest.mark.parametrize("name", CASES)
def test_ctrl_c_ends_every_kind_of_command(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, prefect_home: Path
) -> None:
    case = CASES[name]
    arguments = (str(request.getfixturevalue("dataset")) if one == "DATA" else one for one in case.arguments)
    with Terminal(tmp_path, prefect_home, *arguments) as terminal:
        terminal.wait_for(lambda: any(tmp_path.glob(case.begun)))
        terminal.press_ctrl_c()
        line = ended(terminal, 130)
    assert line.endswith("give the same command again to go on") if case.goes_on else line == START_OVER
    assert not (tmp_path / "trial.csv").exists()
    assert not (tmp_path / "copy" / "dataset.json").exists()


@pytest.mark.operations
@pytest.mark.parametrize("ending", ["ctrl-c twice", "closed terminal"])
def test_verification_ends_by_the_second_ctrl_c_and_by_a_closed_terminal(
    ending: str, dataset: Path, tmp_path: Path, prefect_home: Path
) -> None:
    """All subjects are generated again one by one, in a loop that waits for nothing."""
    with Terminal(tmp_path, prefect_home, "verify", dataset, "--sample", "400") as terminal:
        terminal.wait_for(lambda: re.search(r"100/100|100 shards in|verify: at work for", terminal.output))
        if ending == "ctrl-c twice":
            seen = len(terminal.output)
            terminal.press_ctrl_c()
            time.sleep(0.05)  # else the terminal may send one signal for both
            terminal.press_ctrl_c()  # the first may have been enough
            assert terminal.ended(SECONDS - 1.5) == 130
            assert terminal.output[seen:].count(START_OVER) == 1
            assert terminal.left_running() == []
        else:
            terminal.close()
            assert terminal.ended(SECONDS) == 129
            assert terminal.left_running() == []
    assert verify_dataset(open_root(dataset)).ok
