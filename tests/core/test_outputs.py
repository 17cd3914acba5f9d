"""What exists is kept: refused by name, replaced only on request, whole or not at all, and never with other files."""

from pathlib import Path

import pytest

from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.outputs import check_new_file, expanded, new_folder

NAMES = ("result.json", "figures")


def test_home_and_variables_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("PLACE", "a b")
    assert expanded("~/out") == "/home/somebody/out"
    assert expanded("${PLACE}/$PLACE/c") == "a b/a b/c"
    assert expanded("s3://bucket/$PLACE") == "s3://bucket/a b"
    monkeypatch.delenv("PLACE")
    with pytest.raises(ConfigError, match=r"not set .*\$PLACE"):
        expanded("$PLACE/out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$PLACE").mkdir()
    assert expanded("$PLACE") == "$PLACE"  # that is its name


def test_a_file_is_written_over_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "trial.csv"
    check_new_file(path)
    path.write_text("mine")
    with pytest.raises(StorageError, match=r"exists already .*trial\.csv.*--overwrite"):
        check_new_file(path)
    check_new_file(path, overwrite=True)
    with pytest.raises(StorageError, match="this is a folder"):
        check_new_file(tmp_path, overwrite=True)
    with pytest.raises(StorageError, match="no such folder"):
        check_new_file(tmp_path / "none" / "trial.csv")


def test_a_result_takes_the_place_of_an_earlier_one_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "fit"

    def write(text: str, **options: bool) -> None:
        with new_folder(target, NAMES, **options) as folder:
            (folder / "result.json").write_text(text)

    write("1")
    with pytest.raises(StorageError, match=r"an earlier result.*--overwrite"):
        write("2")
    assert (target / "result.json").read_text() == "1"
    (target / "figures").mkdir()
    write("3", overwrite=True)
    assert [entry.name for entry in target.iterdir()] == ["result.json"]  # nothing of the earlier result is left
    with pytest.raises(FileNotFoundError), new_folder(target, NAMES, overwrite=True) as folder:  # noqa: PT012
        (folder / "result.json").write_text("half")
        raise FileNotFoundError
    assert (target / "result.json").read_text() == "3"
    assert [entry.name for entry in target.parent.iterdir()] == ["fit"]


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(StorageError, match=r"other files .*thesis\.txt"), new_folder(tmp_path, NAMES, overwrite=True):
        pass
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(StorageError, match="this is a file"), new_folder(tmp_path / "thesis.txt", NAMES):
        pass


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path, tmp_path.parent):
        with pytest.raises(StorageError, match="working folder"), new_folder(place, NAMES):
            pass
    with new_folder(Path("fit"), NAMES) as folder:
        (folder / "result.json").write_text("1")
    assert (tmp_path / "fit" / "result.json").exists()


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(RuntimeError), new_folder(kept / "a" / "b" / "fit", NAMES):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [kept]
    assert not list(kept.iterdir())
