"""A folder with the data set ``datasets/demo``, and the command line on the PATH, for the code of the documentation."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.examples import demo
from tests.paths import ROOT

TABLE = """
import numpy as np, pandas as pd
table = pd.read_csv("trial.csv", na_values=".")
person = table["ID"]
table["arm"], table["weight"], table["sex"] = person % 2, 60 + person % 25, (person // 3) % 2
table.to_csv("trial.csv", index=False, na_rep=".")
"""


@pytest.fixture(scope="package")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of commands: ours first on the PATH, and a Prefect of their own."""
    home = tmp_path_factory.mktemp("prefect")
    own = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": own, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "MPLBACKEND": "agg",
            "PYTHONPATH": str(ROOT)}  # fmt: skip


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Path]:
    """A new folder: what an earlier run has left is in nobody's way."""
    folder = tmp_path_factory.mktemp("documentation")
    simulate = "simulate trial.csv --model one-compartment --subjects 40 --seed 1"
    for arguments in (demo(folder), simulate.split()):
        subprocess.run(["image-longitudinal", *arguments], cwd=folder, env=environment, check=True)
    subprocess.run([sys.executable, "-c", TABLE], cwd=folder, env=environment, check=True)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
