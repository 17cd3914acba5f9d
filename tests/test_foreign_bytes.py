"""A thousand mutations of each file that somebody else may have made: no crash, no hang, our errors, little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.foreign_bytes import KINDS
from tests.paths import ROOT

COUNT = 1000
GROWTH = 300  # MB of memory at most while they run; each file has some kB


@pytest.mark.parametrize("kind", KINDS)
def test_only_our_own_errors_come_out(kind: str, tmp_path: Path) -> None:
    if kind == "heidelberg":
        pytest.importorskip("eyepy")
    command = [sys.executable, "-m", "tests.foreign_bytes", kind, str(COUNT), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-3000:]}"
    figures = json.loads(done.stdout)
    assert figures["refused"] > COUNT / 2, "most mutations are damage"
    assert figures["grown_mb"] < GROWTH
