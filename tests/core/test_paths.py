"""Nothing leaves a folder by a link, and nothing but plain files is opened."""

import os
from pathlib import Path

import pytest

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.paths import below, folder_below, open_plain


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_a_path_that_is_not_below_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StorageError, match="not a path below the folder"):
        below(tmp_path, path)


def test_a_link_that_leads_out_is_refused_wherever_it_lies(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "real", outside):
        folder.mkdir(parents=True)
    (inside / "here").symlink_to("real")  # to another folder inside: kept
    assert below(inside, "here/file") == inside / "here" / "file"
    for name, target in (("up", ".."), ("there", outside), ("dangling", "/nowhere/at/all")):
        (inside / name).symlink_to(target)
        for path in (f"{name}/file", f"{name}/a/b/file"):
            with pytest.raises(StorageError, match="a link leads out of the folder"):
                below(inside, path)
        with pytest.raises(StorageError, match="make the whole folder the link"):
            folder_below(inside, inside / name)
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be a link
    assert below(tmp_path / "link", "real/file") == tmp_path / "link" / "real" / "file"


def test_only_plain_files_are_opened_and_none_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("fifo", "device"):
        with pytest.raises(OSError, match="not a plain file"):
            open_plain(tmp_path / name)
    with pytest.raises(OSError, match="not a plain file"):
        open_plain(tmp_path)
    (tmp_path / "file").write_text("content")
    with open(open_plain(tmp_path / "file"), encoding="utf-8") as file:
        assert file.read() == "content"
