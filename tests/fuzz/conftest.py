"""The fixtures of the end-to-end tests, a process that forks runs, and the digests of a run without faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.e2e.conftest import prefect_server, tiny, tiny_file
from tests.fuzz.runs import Ended, Job, Runs, result

__all__ = ["prefect_server", "tiny", "tiny_file"]

Reference = tuple[dict[str, str], Ended]


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Runs]:
    """The process that forks runs, with the Prefect server of all of them."""
    started = Runs(tmp_path_factory.mktemp("runs"), str(PREFECT_API_URL.value()))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="package")
def reference(runs: Runs) -> Reference:
    """Digests of what a run without faults makes, and how it ended."""
    folder = runs.folder / "reference"
    ended = runs.run(Job(str(folder)))
    assert ended.status == 0, ended.output
    assert ended.calls > 0, "the library of file calls is not in effect"
    return result(folder), ended


@pytest.fixture
def site(runs: Runs, request: pytest.FixtureRequest) -> Path:
    """A new folder for runs of one test."""
    return runs.folder / request.node.name.replace("[", "-").rstrip("]")
