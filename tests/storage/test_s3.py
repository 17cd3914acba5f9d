"""The same code over HTTP against an S3 server: write, verify, read, damage, disappear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import StorageError
from storage import layout
from storage.filesystem import Root, open_root
from storage.reader import open_dataset
from storage.transfer import Selection, copy_dataset
from storage.verify import verify_dataset
from tests.storage.conftest import write_dataset

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An S3 server with one bucket; credentials come from the environment, as a user's would."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", address),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)  # moto keeps its state between servers
    yield server
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_data_set_lives_on_s3(server: object) -> None:
    root = open_root("s3://bucket/data/set")
    write_dataset(root)
    assert verify_dataset(root).ok
    dataset = open_dataset("s3://bucket/data/set")
    assert dataset.images(5, 20).shape == (15, 8, 8)
    assert dataset.subject(13).observations[1.0].num_rows == 5

    copy = open_root("s3://bucket/copy")
    copy.link_or_copy(root, "dataset.json", "deep/copy.json")
    assert copy.sha256("deep/copy.json") == root.sha256("dataset.json")

    root.write_bytes(layout.latent_shard_path(1), b"short")
    root.remove(layout.subjects_path(2, "test"))
    assert verify_dataset(root).bad_shards == (1, 2)


def test_a_data_set_is_published_there_and_parts_are_fetched(server: object, published: Root, tmp_path: Path) -> None:
    store = open_root("s3://bucket/published")
    copy_dataset(published, store)
    assert {path: store.sha256(path) for path in store.files()} == {
        path: published.sha256(path) for path in published.files()
    }
    part = open_root(tmp_path / "part")
    copy_dataset(store, part, Selection(splits=("test",), levels=(1.0,)))
    assert verify_dataset(part).ok
    assert open_dataset(part).manifest.splits == {"test": 7}


def test_a_missing_bucket_and_a_vanished_server_are_clear_errors(server: object) -> None:
    with pytest.raises(StorageError, match=r"cannot write a file \(s3://mistyped/x\)"):
        open_root("s3://mistyped").write_bytes("x", b"1")
    server.stop()  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="Check that the store can be reached"):
        open_root("s3://bucket/data").read_bytes("x")
