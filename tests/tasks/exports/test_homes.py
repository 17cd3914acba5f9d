"""Exports are read by the libraries they are for, give the data set's images and numbers, resume, and are checked."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.errors import ConfigError, MissingExtraError, StorageError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.exports.export import Exported, check_export
from image_longitudinal.tasks.exports.homes import HOMES, export_dataset
from tests.storage.conftest import LEVELS, TIMES, arrays, digests, write_dataset

DATA = arrays()
TRAIN, TEST = list(range(12)), list(range(15, 22))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = open_root(tmp_path_factory.mktemp("tiny") / "data")
    write_dataset(root)
    return open_dataset(root)


def exported(dataset: Dataset, folder: Path, home: str, **chosen: Any) -> Path:
    """An export that :func:`check_export` finds whole."""
    export_dataset(dataset, open_root(folder), home, **chosen)
    assert check_export(open_root(folder)) == []
    return folder


def test_hugging_face_loads_images_splits_and_features(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder = str(exported(dataset, tmp_path / "hub", "huggingface"))
    loaded = datasets.load_dataset(folder, cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == {"train": 12, "validation": 3, "test": 7}
    test = loaded["test"]
    assert isinstance(test.features["image"], datasets.Image)
    assert test["id"][:] == TEST
    np.testing.assert_array_equal([np.asarray(image) for image in test["image"]], DATA.images[TEST])
    np.testing.assert_array_equal(test["linked_eta"][:], DATA.eta[TEST])
    for level in LEVELS:
        np.testing.assert_array_equal(test[f"used_eta_rho2-{level}"][:], DATA.used[level][TEST])
        np.testing.assert_array_equal(test[f"dv_rho2-{level}"][:], DATA.dv[level][TEST].astype(np.float32))
    assert test["time"][0] == list(TIMES)
    streamed = next(iter(datasets.load_dataset(folder, split="train", streaming=True)))
    np.testing.assert_array_equal(np.asarray(streamed["image"]), DATA.images[0])
    builder = datasets.load_dataset_builder(folder, cache_dir=str(tmp_path / "cache"))
    assert builder.config.name == "subjects"


def test_webdataset_streams_samples(dataset: Dataset, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = exported(dataset, tmp_path / "tars", "webdataset", levels=[0.0526], splits=["train"])
    assert sorted(path.name for path in folder.glob("*.tar")) == ["train-00000.tar", "train-00001.tar"]
    read = webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False).decode("l8")
    samples = list(read)
    assert [sample["json"]["id"] for sample in samples] == TRAIN
    np.testing.assert_array_equal([sample["png"] for sample in samples], DATA.images[TRAIN])
    (level,) = samples[5]["json"]["levels"].items()
    assert level[0] == "0.0526"
    np.testing.assert_array_equal(level[1]["used_eta"], DATA.used[0.0526][5])
    np.testing.assert_array_equal(level[1]["dv"], DATA.dv[0.0526][5].astype(np.float32))
    assert set(samples[0]["json"]) == {"id", "split", "linked_eta", "levels"}


def test_image_folder_has_pngs_and_a_table_of_numbers(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(dataset, tmp_path / "images", "imagefolder", levels=[1.0])
    with open(folder / "test/metadata.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == TEST
    for row in rows:
        number = int(row["id"])
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "test" / row["file_name"])), DATA.images[number])
        assert float(row["used_eta_2_rho2-1.0"]) == DATA.used[1.0][number, 1]
        assert np.float32(row["dv_rho2-1.0_t4"]) == np.float32(DATA.dv[1.0][number, 3])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == {"train": 12, "validation": 3, "test": 7}
    np.testing.assert_array_equal(np.asarray(loaded["validation"][0]["image"]), DATA.images[12])
    assert loaded["validation"][0]["linked_eta_1"] == DATA.eta[12, 0]


def test_croissant_describes_the_image_folder_and_reads_its_images(dataset: Dataset, tmp_path: Path) -> None:
    import prefect.main  # noqa: F401 - first: its import closes log handlers, with mlcroissant's the captured stderr

    mlcroissant = pytest.importorskip("mlcroissant")
    folder = exported(dataset, tmp_path / "images", "imagefolder", splits=["test"])
    described = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    images = {int(record["images/id"]): record["images/image"] for record in described.records("images")}
    assert sorted(images) == TEST
    np.testing.assert_array_equal(np.asarray(images[20])[..., 0], DATA.images[20])  # read as RGB
    numbers = list(described.records("test"))
    assert [record["test/id"] for record in numbers] == TEST
    assert numbers[0]["test/linked_eta_1"] == DATA.eta[15, 0]


def test_nifti_holds_a_slice_of_the_same_grey_levels(dataset: Dataset, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = exported(dataset, tmp_path / "volumes", "nifti", splits=["test"], levels=[1.0])
    with open(folder / "test/metadata.csv", encoding="utf-8") as file:
        row = list(csv.DictReader(file))[3]
    volume = nibabel.load(folder / "test" / row["file_name"])
    assert (volume.shape, volume.get_data_dtype()) == ((8, 8, 1), np.uint8)
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[:, :, 0].T, DATA.images[18])


def test_nifti_without_nibabel_names_the_extra(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"image-longitudinal\[nifti\]"):
        export_dataset(dataset, open_root(tmp_path / "volumes"), "nifti")


def test_nmtran_has_a_table_and_a_control_stream_for_each_level_and_split(dataset: Dataset, tmp_path: Path) -> None:
    folder = exported(dataset, tmp_path / "nonmem", "nmtran", splits=["train", "test"])
    names = {f"rho2-{level}/{split}.{end}" for level in LEVELS for split in ("train", "test") for end in ("csv", "ctl")}
    assert {str(path.relative_to(folder)) for path in folder.glob("rho2*/*")} == names
    table = (folder / "rho2-0.0526/test.csv").read_text(encoding="utf-8").splitlines()
    stream = (folder / "rho2-0.0526/test.ctl").read_text(encoding="utf-8")
    assert len(table) == 1 + 7 * 5
    assert f"$INPUT {table[0].replace(',', ' ')}\n$DATA test.csv IGNORE=@\n" in stream


def test_bids_has_images_participants_and_phenotypes(dataset: Dataset, tmp_path: Path) -> None:
    folder = exported(dataset, tmp_path / "bids", "bids")
    image = Image.open(folder / "sub-000000017/micr/sub-000000017_sample-01_OCT.png")
    np.testing.assert_array_equal(np.asarray(image), DATA.images[17])
    assert json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))["BIDSVersion"]

    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((folder / name).read_text(encoding="utf-8")), delimiter="\t"))

    people, samples = table("participants.tsv"), table("samples.tsv")
    assert [row["participant_id"] for row in people] == [row["participant_id"] for row in samples]
    assert list(people[0]) == ["participant_id", "split", "linked_eta_1", "linked_eta_2"]
    assert people[17]["split"] == "test"
    outcomes = table("phenotype/outcomes-rho2-0p0526.tsv")
    assert list(outcomes[0]) == ["participant_id", "used_eta_1", "used_eta_2", "dv_t0", "dv_t0.5", "dv_t1", "dv_t4"]
    assert float(outcomes[17]["used_eta_1"]) == DATA.used[0.0526][17, 0]


@pytest.mark.parametrize("home", [name for name in HOMES if name not in ("nifti", "nmtran")])
def test_an_export_resumes_keeps_what_is_whole_and_mends_what_is_not(
    dataset: Dataset, tmp_path: Path, home: str
) -> None:
    root = open_root(tmp_path / home)
    seen: list[Exported] = []

    class StoppedError(Exception):
        pass

    def stop(done: Exported) -> None:
        if done.subjects >= 11:  # after the second of five parts
            raise StoppedError

    with pytest.raises(StoppedError):
        export_dataset(dataset, root, home, workers=1, progress=stop)
    export_dataset(dataset, root, home, progress=seen.append)
    assert (seen[-1].subjects, seen[-1].of) == (22, 22)
    assert seen[-1].kept >= 8
    whole = digests(root)
    export_dataset(dataset, open_root(tmp_path / "again"), home, workers=1)
    assert digests(open_root(tmp_path / "again")) == whole
    damaged = next(name for name in whole if not name.startswith(".") and not name.endswith((".json", ".md", "README")))
    write_atomically(tmp_path / home / damaged, b"?")
    assert check_export(root) == [damaged]
    export_dataset(dataset, root, home, progress=seen.append)
    assert digests(root) == whole
    assert seen[-1].kept >= 14


def test_another_export_or_other_files_stay(dataset: Dataset, tmp_path: Path) -> None:
    root = open_root(tmp_path / "out")
    export_dataset(dataset, root, "webdataset", splits=["test"])
    for home, splits in (("webdataset", ["train"]), ("huggingface", ["test"])):
        with pytest.raises(StorageError, match=r"holds another export.*--overwrite"):
            export_dataset(dataset, root, home, splits=splits)
    export_dataset(dataset, root, "huggingface", splits=["test"], overwrite=True)
    assert not [name for name in root.files() if name.endswith(".tar")]
    (tmp_path / "mine").mkdir()
    write_atomically(tmp_path / "mine/notes.txt", "notes")
    with pytest.raises(StorageError, match=r"holds other files.*notes\.txt"):
        export_dataset(dataset, open_root(tmp_path / "mine"), "webdataset")
    with pytest.raises(StorageError, match="no export here"):
        check_export(open_root(tmp_path / "mine"))


def test_a_wrong_choice_is_refused_before_anything_is_written(dataset: Dataset, tmp_path: Path) -> None:
    for chosen, kind, message in (
        ({"home": "hugingface"}, ConfigError, r"no such home.*bids; got hugingface\. Did you mean huggingface\?"),
        ({"home": "bids", "levels": [0.5]}, StorageError, "no such association level"),
        ({"home": "bids", "splits": ["dev"]}, StorageError, "no such split"),
    ):
        with pytest.raises(kind, match=message):
            export_dataset(dataset, open_root(tmp_path / "out"), **chosen)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_export_may_go_to_a_store(dataset: Dataset) -> None:
    root = open_root("memory://exports/tars")
    export_dataset(dataset, root, "webdataset", levels=[1.0])
    assert check_export(root) == []
