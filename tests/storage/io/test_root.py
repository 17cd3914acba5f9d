"""Files appear whole under their name or not at all, wherever it stops."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.io import remote
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries


def test_a_file_is_written_read_listed_and_removed(store: Root) -> None:
    record = store.write_bytes("a/b=0.5/c.bin", b"0123456789", rows=3)
    digest = hashlib.sha256(b"0123456789").hexdigest()
    assert record == FileRecord(path="a/b=0.5/c.bin", sha256=digest, bytes=10, rows=3)
    assert store.read_bytes(record.path) == b"0123456789"
    assert (store.sha256(record.path), store.size(record.path)) == (record.sha256, 10)
    assert store.read_ranges(record.path, [(2, 5), (9, 10)]) == [b"234", b"9"]
    assert store.read_tail(record.path, 3) == b"789"
    assert not store.exists("a")
    assert store.files() == store.files("a") == [record.path]
    assert store.entries() == ["a"]
    store.remove(record.path)
    store.remove(record.path)
    assert not store.exists(record.path)
    assert store.files() == []


def test_writing_again_replaces_the_whole_file(store: Root, tmp_path: Path) -> None:
    store.write_bytes("x", b"long content")
    store.write("x", [b"sh", b"ort"])
    assert store.read_bytes("x") == b"short"
    (tmp_path / "source").write_bytes(b"abc" * 1000)
    assert store.put_file(tmp_path / "source", "x").bytes == 3000
    assert (store.read_bytes("x"), store.files()) == (b"abc" * 1000, ["x"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    root = open_root(tmp_path / "data")
    root.write_bytes("shards/00000.json", b"old")
    error = OSError(number, os.strerror(number))

    def fail(*_: object) -> None:
        raise error

    def pieces() -> Iterator[bytes]:
        yield b"n"
        if step == "write":
            raise error
        yield b"ew"

    if step != "write":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match="cannot write a file") as caught:
        root.write("shards/00000.json", pieces())
    monkeypatch.undo()
    assert "shards/00000.json" in str(caught.value)
    assert "then run the same command again" in str(caught.value)
    assert (root.read_bytes("shards/00000.json"), root.files()) == (b"old", ["shards/00000.json"])


def test_an_error_or_interrupt_while_making_the_pieces_leaves_nothing(store: Root) -> None:
    for kind in (ZeroDivisionError, KeyboardInterrupt):

        def pieces(kind: type[BaseException] = kind) -> Iterator[bytes]:
            yield b"half"
            raise kind

        with pytest.raises(kind):
            store.write("x", pieces())
        assert store.files() == []


def test_a_killed_write_leaves_a_temporary_that_is_known_and_cleaned(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:

        def pieces() -> Iterator[bytes]:
            yield b"half"
            os._exit(9)

        LocalRoot(tmp_path).write("deep/x.parquet", pieces())
    os.waitpid(child, 0)
    root = LocalRoot(tmp_path)
    (left,) = root.files()
    assert is_temporary(left)
    root.write_bytes("deep/keep.tmp", b"not ours")
    assert clean_temporaries(root) == [left]
    assert root.files() == ["deep/keep.tmp"]


def test_local_to_local_is_a_hard_link_or_else_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cross_device(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source, target = LocalRoot(tmp_path / "cache"), LocalRoot(tmp_path / "data")
    source.write_bytes("a", b"bytes")
    for _ in range(2):  # the second time both names are one file already, where rename would keep the temporary
        target.link_or_copy(source, "a", "deep/b")
    assert (target.folder / "deep/b").samefile(source.folder / "a")
    assert target.files() == ["deep/b"]
    source.write_bytes("a", b"newer")
    assert target.read_bytes("deep/b") == b"bytes"
    monkeypatch.setattr(os, "link", cross_device)
    target.link_or_copy(source, "a", "c")
    assert target.read_bytes("c") == b"newer"
    assert not (target.folder / "c").samefile(source.folder / "a")


def test_between_stores_and_within_one_the_bytes_are_copied(store: Root, tmp_path: Path) -> None:
    other, copy = open_root(f"memory://{tmp_path.name}/one"), open_root(f"memory://{tmp_path.name}/two")
    store.write_bytes("a", b"bytes")
    other.link_or_copy(store, "a", "b")
    copy.link_or_copy(other, "b", "deep/c")
    assert copy.read_bytes("deep/c") == b"bytes"


def test_a_missing_file_is_named_when_it_is_read_or_linked(store: Root) -> None:
    with pytest.raises(StorageError, match=r"cannot read a file .*nowhere\.bin"):
        store.read_bytes("nowhere.bin")
    with pytest.raises(StorageError, match=r"cannot .* a file"):
        store.link_or_copy(store, "nothing", "x")
    assert store.files() == []


def test_only_a_failure_that_may_pass_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, calls = open_root(f"memory://{tmp_path.name}/data"), []
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(remote, "OUTAGE_PAUSES", ())
    kind = type(root.fs)  # type: ignore[attr-defined]

    def flaky(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(args)
            if len(calls) % 3:
                raise ConnectionResetError("cut")
            return real(*args, **kwargs)

        return call

    for name in ("put_file", "cat_file", "info", "rm_file", "find"):
        monkeypatch.setattr(kind, name, flaky(getattr(kind, name)))
    root.write_bytes("x", b"data" * 10)
    assert (root.read_bytes("x"), root.read_tail("x", 4)) == (b"data" * 10, b"data")
    assert root.files() == ["x"]
    root.remove("x")
    assert len(calls) % 3 == 0

    for error, attempts in ((PermissionError("not yours"), 1), (ConnectionError("gone"), 3)):

        def refuse(*_: object, error: Exception = error, **__: object) -> None:
            calls.append(_)
            raise error

        calls.clear()
        monkeypatch.setattr(kind, "put_file", refuse)
        with pytest.raises(StorageError, match=rf"cannot write a file \(memory://.*/x\).*{error}"):
            root.write_bytes("x", b"data")
        assert len(calls) == attempts
        assert root.files() == []


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    root = open_root(tmp_path / "data")
    assert not root.exists("x")
    for attempt in (root.entries, lambda: root.write_bytes("x", b"1")):
        with pytest.raises(StorageError, match="Choose an output that is a folder"):
            attempt()
    with pytest.raises(StorageError, match="unknown kind of address"):
        open_root("nosuch://place")


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "/etc/passwd", ""])
def test_a_record_cannot_point_outside_the_root(path: str) -> None:
    with pytest.raises(ValidationError, match="inside the data set"):
        FileRecord(path=path, sha256="0" * 64, bytes=1)


def test_nothing_is_written_or_removed_through_a_link_out_of_the_root(tmp_path: Path) -> None:
    """A data set of others may hold such links: for each folder name of the layout, and for the lock file."""
    outside, root = tmp_path / "outside", open_root(tmp_path / "data")
    outside.mkdir()
    (outside / "00000.json").write_text("keep")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shards").symlink_to(outside)
    source = open_root(tmp_path / "source")
    source.write_bytes("file", b"new")
    attempts: list[Callable[[], object]] = [
        lambda: root.write_bytes("shards/00000.json", b"new"),
        lambda: root.link_or_copy(source, "file", "shards/00000.json"),
        lambda: root.remove("shards/00000.json"),
        lambda: root.write_bytes("../outside/00000.json", b"new"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=r"leads out|not a path below"):
            attempt()
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"00000.json": "keep"}


def test_the_lock_file_is_no_way_to_write_elsewhere(tmp_path: Path) -> None:
    victim, root = tmp_path / "victim", open_root(tmp_path / "data")
    victim.write_text("keep")
    (tmp_path / "data").mkdir()
    lock = tmp_path / "data" / LEASE
    for plant in (lambda: lock.symlink_to(victim), lambda: lock.hardlink_to(victim), lambda: os.mkfifo(lock)):
        plant()
        with pytest.raises(StorageError, match=r"lock"), hold_lease(root):
            pass
        assert victim.read_text() == "keep"
        lock.unlink()
    with hold_lease(root):
        assert b"pid" in lock.read_bytes()


def test_a_link_to_a_file_is_copied_as_the_file(tmp_path: Path) -> None:
    """Caches of the hub hold links: a copy of one must not be the link."""
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").symlink_to(tmp_path / "blob")
    target = open_root(tmp_path / "target")
    target.link_or_copy(open_root(tmp_path / "source"), "file", "file")
    assert not (tmp_path / "target" / "file").is_symlink()
    assert target.read_bytes("file") == b"content"


def test_a_fifo_or_device_in_a_data_set_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    root = open_root(tmp_path)
    for name in ("fifo", "device"):
        assert not root.exists(name)
        for read in (root.read_bytes, root.sha256, lambda path: root.read_tail(path, 4)):
            with pytest.raises(StorageError, match="not a plain file"):
                read(name)
