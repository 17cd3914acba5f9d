"""Which picture belongs to which subject: the rules of names and lists, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.scans.subject_pictures import find_subject_pictures, ids_of_pictures, read_picture


def folder_of(place: Path, names: Sequence[str]) -> str:
    """A folder of pictures, each of the grey level of its position."""
    for level, name in enumerate(names):
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), level, np.uint8)).save(file)
    return str(place)


def owners(place: str, ids: Sequence[Any], **options: Any) -> dict[str, Any]:
    found = find_subject_pictures(place, ids, **options)
    return {name: ids[owner] for name, owner in zip(found.names, found.owner, strict=True)}


def test_a_name_begins_with_the_id(tmp_path: Path) -> None:
    place = folder_of(tmp_path, ["007.png", "12_left.png", "12-right 2.jpg", ".hidden.png", "12_1_b.tif"])
    assert owners(place, [7, 12]) == {"007.png": 7, "12-right 2.jpg": 12, "12_1_b.tif": 12, "12_left.png": 12}


def test_the_longest_part_that_is_an_id_counts_and_text_is_not_a_number(tmp_path: Path) -> None:
    place = folder_of(tmp_path, ["A_1.png", "A_1_left.png", "A.png", "007.png"])
    expected = {"A_1.png": "A_1", "A_1_left.png": "A_1", "A.png": "A", "007.png": "007"}
    assert owners(place, ["A", "A_1", "007"]) == expected
    with pytest.raises(StorageError, match=r"1 of 4 images belong to no subject.*007"):
        owners(place, ["A", "A_1", "7"])


def test_a_folder_may_be_the_subject(tmp_path: Path) -> None:
    place = folder_of(tmp_path, ["3/left.png", "3/right.png", "4/scan.png"])
    assert owners(place, [3, 4]) == {"3/left.png": 3, "3/right.png": 3, "4/scan.png": 4}


def test_subjects_without_and_pictures_of_nobody_are_refused(tmp_path: Path) -> None:
    place = folder_of(tmp_path, ["1.png", "2.png", "9.png"])
    with pytest.raises(StorageError, match=r"belong to no subject.*9\.png.*--image-list"):
        owners(place, [1, 2])
    assert owners(place, [1, 2], others=True) == {"1.png": 1, "2.png": 2}
    with pytest.raises(StorageError, match=r"1 of 4 subjects have no image.*none of 5"):
        owners(place, [1, 2, 9, 5])


def test_a_list_gives_ids(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "scans", ["a.png", "deep/b.png"])
    listed = tmp_path / "scans" / "list.csv"
    listed.write_text("patient,file\n5,a.png\n6,deep/b.png\n", encoding="utf-8")
    expected = {"a.png": 5, "deep/b.png": 6}
    assert owners(place, [5, 6], listed=str(listed), id_column="patient") == expected
    assert owners(place, [5, 6], id_column="Patient") == expected  # the only list in the folder
    with pytest.raises(StorageError, match=r"column of the list.*expected id; got patient, file"):
        owners(place, [5, 6], listed=str(listed))
    listed.write_text("patient,file\n5,a.png\n6,../outside.png\n", encoding="utf-8")
    with pytest.raises(StorageError, match="not in the folder"):
        owners(place, [5, 6], id_column="patient")
    listed.write_text("patient,file\n5,a.png\n6,a.png\n", encoding="utf-8")
    with pytest.raises(StorageError, match="names an image twice"):
        owners(place, [5, 6], id_column="patient")


def test_a_zarr_group_has_ids_or_a_list(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "images.zarr"), mode="w")
    group.create_array("image", data=np.arange(24, dtype=np.uint8).reshape(3, 2, 4))
    place = str(tmp_path / "images.zarr")
    with pytest.raises(StorageError, match="whose image is which"):
        find_subject_pictures(place, [1, 2, 3])
    listed = tmp_path / "list.csv"
    listed.write_text("id,image_index\n3,0\n2,1\n1,2\n", encoding="utf-8")
    by_list = find_subject_pictures(place, [1, 2, 3], listed=str(listed))
    group.create_array("id", data=np.array([3, 2, 1]))
    by_array = find_subject_pictures(place, [1, 2, 3])
    for found in (by_list, by_array):
        first = int(np.flatnonzero(found.owner == 0)[0])
        np.testing.assert_array_equal(found.pixels(first), [[16, 17, 18, 19], [20, 21, 22, 23]])
    listed.write_text("id,image_index\n3,0\n2,1\n1,7\n", encoding="utf-8")
    with pytest.raises(StorageError, match="expected 0 to 2; got 7"):
        find_subject_pictures(place, [1, 2, 3], listed=str(listed))


def test_ids_without_a_table_are_those_of_names(tmp_path: Path) -> None:
    assert ids_of_pictures(folder_of(tmp_path / "numbers", ["10.png", "002.png"])) == [2, 10]
    assert ids_of_pictures(folder_of(tmp_path / "texts", ["p1.png", "2.png"])) == ["2", "p1"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(StorageError, match=r"cannot read an image.*1\.png.*Replace or remove it"):
        read_picture(tmp_path / "1.png")
    with pytest.raises(StorageError, match=r"no images there.*nothing there"):
        find_subject_pictures(str(tmp_path / "nowhere"), [1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=r"no images there.*PNG, JPEG or TIFF"):
        find_subject_pictures(str(tmp_path / "empty"), [1])
