"""kill -9 at random moments, then the same command: it finishes, and nothing shows that it was ever killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import cli_arguments, cli_environment, digests

pytestmark = pytest.mark.e2e
KILLS = 3


def test_killed_three_times_and_finished_as_if_never_killed(tmp_path: Path, tiny_file: Path) -> None:
    chosen = random.Random(os.environ.get("KILL_SEED", "2410.16177"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for home in (whole, killed):
        home.mkdir()
    began = time.monotonic()
    assert start(whole, tiny_file).wait(600) == 0
    length = time.monotonic() - began

    moments = []
    for _ in range(KILLS):
        process = start(killed, tiny_file)
        # From before the first file to the last second; later attempts start from what earlier ones left.
        moment = chosen.uniform(0.2, 1.0) * length
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(moment)
        published = (killed / "data" / "dataset.json").exists()
        assert not published or digests(killed / "data") == digests(whole / "data")
    assert moments, "every attempt finished before its moment came"
    assert start(killed, tiny_file).wait(600) == 0
    assert digests(killed / "data") == digests(whole / "data")


def start(home: Path, tiny_file: Path) -> subprocess.Popen[bytes]:
    log = open(home / "log.txt", "ab")  # noqa: SIM115
    return subprocess.Popen(
        cli_arguments("generate", "--config", tiny_file, "--output", "data"),
        env=cli_environment(home), cwd=home, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
