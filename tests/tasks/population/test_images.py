"""A fit with images beside its table, from files to files: the section of fit.json, predictions, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import image_longitudinal as il
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.flows.fit_table import fit_table
from image_longitudinal.models.image_effects import network_head
from image_longitudinal.tasks.engine.prefect_setup import run_or_call
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import IMAGE_EFFECTS, IMAGE_PREDICTOR, NAME, REPORT, FitSummary
from tests.models.image_effects.conftest import trial

N, NEW = 60, 10  # subjects to fit, and further ones to predict


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables ``trial.csv`` and ``new.csv``, pictures by id in the folders ``scans`` and ``new``."""
    folder, people = tmp_path_factory.mktemp("images"), trial()
    for name, first, last in (("trial", 0, N), ("new", N, N + NEW)):
        data = people.data.subset(first, last)
        rows = [(i, 0.0, 1, 100.0, 1, ".") for i in range(first, last)]
        rows += [
            (first + int(subject), float(time), 0, ".", 2, float(value))
            for subject, time, value in zip(data.subject_of_row, data.times, data.observed, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=["ID", "TIME", "EVID", "AMT", "CMT", "DV"])
        frame.sort_values(["ID", "TIME"], kind="stable").to_csv(folder / f"{name}.csv", index=False)
        scans = folder / ("scans" if name == "trial" else "new")
        scans.mkdir()
        for i in range(first, last):
            Image.fromarray(people.images[i]).save(scans / f"{i:03d}.png")
    return folder


def options(place: Path, **more: Any) -> FitOptions:
    return FitOptions(
        table=str(place / "trial.csv"), model="one-compartment", omega="diagonal", fixed=("ka",),
        **{"images": str(place / "scans"), "permutations": 2, "covariance": "none"} | more,
    )  # fmt: skip


def fitted(place: Path, folder: Path, overwrite: bool = False, **more: Any) -> FitSummary:
    found = run_or_call(fit_table, options(place, **more), str(folder), 1, overwrite)
    assert isinstance(found, FitSummary)
    return found


@pytest.fixture(scope="module")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit to which images were added when it was complete."""
    folder = tmp_path_factory.mktemp("finished") / "fit"
    assert fitted(place, folder, images=None).images is None
    assert not (folder / IMAGE_PREDICTOR).exists()
    fitted(place, folder)
    return folder


def test_a_fit_says_what_images_explain(place: Path, finished: Path, tmp_path: Path) -> None:
    found = json.loads((finished / NAME).read_text(encoding="utf-8"))["images"]
    assert (found["images"], found["subjects"], found["permutations"]) == (N, N, 2)
    share = found["shares"]["eta_cl"]
    assert share["low"] < share["share"] < share["high"]
    assert share["share"] == pytest.approx(1 - share["left"] / share["omega2"])
    assert found["gain"] > found["null_gain"]
    page = (finished / REPORT).read_text(encoding="utf-8")
    assert "What images explain" in page
    table = pd.read_parquet(finished / IMAGE_EFFECTS)
    assert table.groupby("source").size().to_dict() == {"image": N, "image+visits": N}
    again = fitted(place, shutil.copytree(finished, tmp_path / "fit"))
    assert any("images explain" in line for line in again.lines())


def test_a_result_of_other_images_is_not_replaced_unasked(place: Path, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "fit")
    with pytest.raises(StorageError, match="other images"):
        fitted(place, folder, image_learning="two-step", permutations=0)
    replaced = fitted(place, folder, True, image_learning="two-step", permutations=0).images
    assert replaced is not None
    assert (replaced.learning, replaced.p) == ("two-step", None)


def test_new_subjects_are_predicted_by_image_and_by_first_visits(place: Path, finished: Path, tmp_path: Path) -> None:
    alone = pd.read_parquet(il.predict(finished, place / "new", tmp_path / "alone.parquet"))
    assert alone["id"].tolist() == list(range(N, N + NEW))
    assert set(alone["source"]) == {"image"}
    path = il.predict(finished, place / "new", tmp_path / "both.csv", table=place / "new.csv", visits=2)
    both = pd.read_csv(path).set_index(["source", "id"])
    np.testing.assert_allclose(both.loc["image"]["eta_cl"], alone["eta_cl"], atol=1e-6)
    assert (both.loc["image+visits"]["sd_eta_cl"] < both.loc["image"]["sd_eta_cl"]).all()
    with pytest.raises(ConfigError, match="no fit with images"):
        il.predict(tmp_path, place / "new", tmp_path / "none.csv")


def test_images_that_do_not_fit_are_refused_before_the_fit(place: Path, tmp_path: Path) -> None:
    scans = shutil.copytree(place / "scans", tmp_path / "scans")
    output = tmp_path / "fit"

    def refused(match: str, **more: Any) -> None:
        with pytest.raises((StorageError, ConfigError), match=match):
            fitted(place, output, **{"images": str(scans)} | more)
        assert not output.exists()

    refused("without images", images=None, id_column="id")
    refused("reads no features", image_model="cnn", image_encoder="pretrained")
    (scans / "000.png").rename(scans / "stray.png")
    refused("belong to no subject")
    (scans / "stray.png").unlink()
    refused("have no image.*none of 0")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(scans / "000.png")
    refused("different sizes.*16x16|different sizes.*8x8")
    (scans / "000.png").write_bytes(b"nothing")
    refused("cannot read an image")
    for file in scans.iterdir():
        Image.fromarray(np.full((16, 16), 5, np.uint8)).save(file)
    refused("all images are the same")


def test_a_network_of_pixels_learns_from_the_same_files(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_head, "EPOCHS", 3)
    folder = shutil.copytree(finished, tmp_path / "fit")
    found = fitted(place, folder, True, image_model="cnn", permutations=0).images
    assert found is not None
    assert found.features == "16x16 pixels"
    il.predict(folder, place / "new", tmp_path / "new.csv")
