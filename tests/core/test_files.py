"""Files and folders appear whole or not at all, whatever a disk keeps of what was not synced."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from image_longitudinal.core.files import (
    is_temporary,
    make_folder,
    move_into_place,
    replacing,
    temporary_folder,
    write_atomically,
)
from tests.power_cuts import Cut, Tree, recorded

BIG = bytes(range(256)) * 8192  # 2 MiB: more than one piece


def left(cuts: list[Cut]) -> list[Tree]:
    """Everything that power cuts may leave, without temporary files."""
    trees = [tree for number, cut in enumerate(cuts) for _, tree in cut.states(number)]
    return [{path: data for path, data in tree.items() if not _below_temporary(path)} for tree in trees]


def _below_temporary(path: str) -> bool:
    return any(is_temporary(part) for part in path.split("/"))


def test_a_file_is_the_whole_old_or_the_whole_new_one(tmp_path: Path) -> None:
    with recorded(tmp_path) as cuts:
        write_atomically(tmp_path / "a/b/file", b"old")
    first = left(cuts)
    assert {tree.get("a/b/file", b"old") for tree in first} == {b"old"}
    assert all("a/b/file" in tree for tree in first[-5:])  # once the call has returned, it stays
    with recorded(tmp_path) as cuts:
        write_atomically(tmp_path / "a/b/file", (BIG[:100], BIG[100:]))
    assert {tree["a/b/file"] for tree in left(cuts)} == {b"old", BIG}
    assert {tree["a/b/file"] for tree in left(cuts)[-5:]} == {BIG}


def write_with_a_library(path: Path) -> None:
    """As Pillow, pyarrow and safetensors do: no sync of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BIG)


def test_what_a_library_wrote_is_whole_or_absent(tmp_path: Path) -> None:
    with recorded(tmp_path) as cuts, replacing(tmp_path / "file") as temporary:
        write_with_a_library(temporary)
    assert {tree.get("file") for tree in left(cuts)} == {None, BIG}


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_file_of_a_library_with_private_temporary_files_is_read_by_whom_the_umask_lets(
    tmp_path: Path, mask: int
) -> None:
    """safetensors makes its files with mode 0600; a shared registry could be read by one account alone."""
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "file") as temporary:
            save_file({"a": np.zeros(3)}, temporary)
        target = tmp_path / "folder"
        with temporary_folder(target) as temporary:
            save_file({"a": np.zeros(3)}, temporary / "file")
            move_into_place(temporary, target)
    finally:
        os.umask(before)
    for path in (tmp_path / "file", target / "file"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_folder_is_whole_or_absent_whoever_wrote_into_it(tmp_path: Path) -> None:
    target, content = tmp_path / "new/parent/target", {"one": BIG, "deep/er/two": BIG, "deep/three": BIG}
    with recorded(tmp_path) as cuts, temporary_folder(target) as temporary:
        for name in content:
            write_with_a_library(temporary / name)
        move_into_place(temporary, target)
    found = []
    for tree in left(cuts):
        inside = {path.removeprefix("new/parent/target/"): data for path, data in tree.items() if "target/" in path}
        found.append({path: data for path, data in inside.items() if data is not None})
    assert all(files in ({}, content) for files in found)
    assert found[-5:] == [content] * 5


@pytest.mark.parametrize("make", [make_folder, lambda folder: folder.mkdir(parents=True)])
def test_a_new_folder_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    with recorded(tmp_path) as cuts:
        make(tmp_path / "a" / "b")
    stays = all("a/b" in tree for _, tree in cuts[-1].states())
    assert stays == (make is make_folder)  # the other shows that this test can fail
