"""The whole job on real scans, smaller in steps than the demo."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.scans.prepared import open_prepared

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]


def test_real_scans_become_a_data_set(kermany_sample: Path, tmp_path: Path, tiny: Callable[..., Config]) -> None:
    config = tiny("images.min_images=300", "dataset.n_subjects=32", "vae.steps=180")
    generate_dataset(str(tmp_path / "data"), str(kermany_sample), config=config, workspace=str(tmp_path / "work"))
    assert verify(str(tmp_path / "data")).ok

    (folder,) = (tmp_path / "work" / "images").iterdir()
    prepared = open_prepared(folder)
    assert len(prepared) == 380
    assert prepared.sizes == [512, 224, 32]
    by_patient: dict[str, set[str]] = {}
    for record in prepared.manifest.images:
        by_patient.setdefault(record.patient, set()).add(record.split)
    assert len(by_patient) == 302
    assert all(len(splits) == 1 for splits in by_patient.values())

    dataset = open_dataset(tmp_path / "data")
    assert dataset.manifest.image.backend == "diffusion"
    made = dataset.images[0:32]
    assert made.shape == (32, 32, 32)
    real = prepared.images(32)
    # The column profile of generated images follows that of real scans: dark vitreous, bright retina, fading choroid.
    assert np.corrcoef(made.mean((0, 2)), real.mean((0, 2)))[0, 1] > 0.7
