"""Shared by all tests: where the real scans are, and one torch thread so that tests can run side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def kermany_sample() -> Path:
    """The folder of real scans (class folders), outside the repository."""
    shared = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
    folder = shared / "kermany_sample"
    if not folder.is_dir():
        pytest.skip(f"real scans are not at hand: no {folder} (set SHARED_DATA)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the pictures of pages are that tests of the service took: a person should look at them now and then."""
    if (folder := ROOT / "build" / "screenshots").is_dir():
        terminalreporter.write_line(f"pages of the Prefect UI as the tests last saw them: {folder}")
