"""A server that does not answer is one line of a command's, before anything is done, without its password."""

import socket
import subprocess
from pathlib import Path

import pytest

from image_longitudinal.cli.server_address import reach
from tests.e2e.conftest import cli_arguments
from tests.e2e.service import cli_environment


def test_a_server_is_reached_and_its_password_is_not_printed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reach(f"http://name:secret@127.0.0.1:{port}/api") == (f"http://127.0.0.1:{port}", None)
    silent = reach(f"http://name:secret@127.0.0.1:{port}/api")
    assert silent.address == f"http://127.0.0.1:{port}"
    assert silent.problem
    assert "secret" not in silent.problem


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/api", "http://127.0.0.1:port/api", "nowhere"])
def test_an_address_that_cannot_be_one_is_a_problem(url: str) -> None:
    assert reach(url).problem


def test_a_command_says_that_no_server_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
    done = subprocess.run(
        cli_arguments("generate", "--set=generator.backend=phantom", "--output", tmp_path / "data"),
        env=cli_environment(tmp_path) | {"PREFECT_API_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no Prefect server answers" in done.stderr
    assert "make server" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
