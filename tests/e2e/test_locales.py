"""The locale changes no byte of a data set: templates, presets and sources are UTF-8 everywhere."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.e2e.conftest import cli_arguments, digests
from tests.e2e.service import cli_environment

SMALL = (
    "generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=24", "dataset.shard_size=24",
    "probe.n_images=64",
)  # fmt: skip


def latin_1(folder: Path) -> dict[str, str]:
    """The variables of a locale that is not UTF-8, made in a folder."""
    if not (program := shutil.which("localedef")):
        pytest.skip("no localedef here")
    name = "en_US.ISO-8859-1"
    command = [program, "-i", "en_US", "-f", "ISO-8859-1", str(folder / name)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("localedef has no sources of en_US")
    return {"LOCPATH": str(folder), "LC_ALL": name}


def test_a_data_set_is_the_same_in_every_locale(tmp_path: Path, prefect_home: Path, prefect_server: None) -> None:
    locales = {"utf-8": {"LC_ALL": "C.UTF-8"}, "latin-1": latin_1(tmp_path)}
    found, options = {}, [part for value in SMALL for part in ("--set", value)]
    for name, variables in locales.items():
        environment = {**cli_environment(prefect_home), "PREFECT_API_URL": str(PREFECT_API_URL.value()), **variables}
        environment["PREFECT_LOCAL_STORAGE_PATH"] = str(tmp_path / f"results-{name}")
        command = cli_arguments("generate", "--output", name, "--workspace", f"workspace-{name}", *options)
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        shown = subprocess.run(
            cli_arguments("show", name), env=environment, cwd=tmp_path, capture_output=True, check=True
        )
        assert b"24" in shown.stdout
        found[name] = digests(tmp_path / name)
    assert found["latin-1"] == found["utf-8"]
    assert "the nearer ρ² is to 1" in (tmp_path / "latin-1" / "report.html").read_text(encoding="utf-8")
