"""Where the reference data live, and populations that several tests share."""

from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.models.nlme.library import get_model
from tests.paths import SHARED_DATA


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder with Wang2007.csv, theoph_132obs.csv and nmtest_half.csv."""
    folder = SHARED_DATA / "nlme"
    if not folder.is_dir():
        pytest.skip(f"reference data for mixed-effects models not found in {folder} (set SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def original():
    return get_model("depot-central-mm")


@pytest.fixture(scope="session")
def stress_eta() -> np.ndarray:
    """10,000 random subjects of which 1,000 extreme ones: a grid to ±6 and uniform draws to ±5 standard deviations."""
    rng = np.random.default_rng(20240607)
    grid = np.stack(np.meshgrid(*[np.linspace(-6, 6, 7)] * 3), axis=-1).reshape(-1, 3)
    extreme = np.concatenate([grid, rng.uniform(-5, 5, (1000 - len(grid), 3))])
    return np.concatenate([extreme, rng.standard_normal((9000, 3))])
