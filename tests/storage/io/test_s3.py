"""The same code over HTTP against an S3 server in a process of its own: write, verify, read, damage, cut, disappear."""

import base64
import contextlib
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.loaders import SubjectLoader
from image_longitudinal.storage.dataset.manifest import is_published
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io import lease, remote
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.remote import RemoteRoot
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import arrays, digests, exit_status, in_child, resume, write_dataset
from tests.storage.io.test_kill_points import KILLED, check_and_finish

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}  # fmt: skip
SMALL = ShardPlan(n_subjects=2, shard_size=1)
DATA = arrays(SMALL)


class Line:
    """A TCP line to a server that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self.server, self.open, self.sockets = port, True, set[socket.socket]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop what is on the way, and everything from now on."""
        self.open = False
        for end in list(self.sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.server))
            for ends in ((client, server), (server, client)):
                self.sockets.add(ends[0])
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            self.sockets.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server that lives as long as this module's tests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 180
    while time.monotonic() < patience and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.2)
    else:
        pytest.fail("the S3 server did not start")
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def line(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line to the server; credentials come from the environment, as a user's would, and patience is short."""
    line = Line(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(remote, "OUTAGE_PAUSES", ())
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
    yield line
    s3fs.S3FileSystem.clear_instance_cache()


class CheckingServer:
    """An S3 server as Amazon's: a body that is not the announced SHA-256 is refused (moto checks none).

    The next ``corrupt`` bodies that carry a checksum are changed on the way, and the next ``busy`` requests throttled.
    """

    def __init__(self) -> None:
        self.corrupt, self.refused, self.busy = 0, 0, 0
        self.moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        size, announced = int(environ.get("CONTENT_LENGTH") or 0), environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        body = bytearray(environ["wsgi.input"].read(size))
        if self.busy:
            self.busy -= 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if announced and body:
            if self.corrupt:
                self.corrupt -= 1
                body[len(body) // 2] ^= 4
            if base64.b64encode(hashlib.sha256(body).digest()).decode() != announced:
                self.refused += 1
                start_response("400 Bad Request", [("Content-Type", "application/xml")])
                return [b"<Error><Code>BadDigest</Code><Message>The SHA256 did not match</Message></Error>"]
        environ["wsgi.input"] = io.BytesIO(body)
        return self.moto(environ, start_response)


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckingServer]:
    """A server that checks bodies, in a thread of this process."""
    application = CheckingServer()
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(remote, "OUTAGE_PAUSES", ())
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
    yield application
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()


NUMBERS = count()


def fresh() -> Root:
    return open_root(f"s3://bucket/{next(NUMBERS)}/data")


def whole_run() -> dict[str, str]:
    """Digests of an uninterrupted run."""
    root = fresh()
    resume(root, DATA, SMALL)
    return digests(root)


def test_a_data_set_lives_on_s3(line: Line) -> None:
    root = fresh()
    write_dataset(root)
    assert verify_dataset(root).ok
    dataset = open_dataset(root.url)
    assert dataset.images[5:20].shape == (15, 8, 8)
    assert dataset.subject(13).observations[1.0].num_rows == 5
    np.testing.assert_array_equal(dataset.view("test").to_xarray().image[2:4], arrays().images[17:19])

    copy = fresh()
    copy.link_or_copy(root, "dataset.json", "deep/copy.json")
    assert copy.sha256("deep/copy.json") == root.sha256("dataset.json")

    root.write_bytes(layout.latent_shard_path(1), b"short")
    root.remove(layout.table_path("subjects", 2, "test"))
    assert verify_dataset(root).bad_shards == (1, 2)


def test_a_data_set_is_published_there_and_parts_are_fetched(line: Line, published: Root, tmp_path: Path) -> None:
    store = fresh()
    copy_dataset(published, store)
    assert digests(store) == digests(published)
    part = open_root(tmp_path / "part")
    copy_dataset(store, part, Selection(splits=("test",), levels=(1.0,)))
    assert verify_dataset(part).ok
    assert open_dataset(part).manifest.splits == {"test": 7}


def test_workers_of_a_data_loader_read_from_s3(line: Line) -> None:
    root = fresh()
    write_dataset(root)
    data = arrays()
    for batch in SubjectLoader(root.url, split="test", level=1.0, fields=("id", "image", "outcomes"), num_workers=2):
        np.testing.assert_array_equal(batch["image"][:, 0], data.images[batch["id"]])
        np.testing.assert_array_equal(batch["outcomes"], data.dv[1.0][batch["id"]].astype(np.float32))


def test_one_run_at_a_time_writes_to_s3(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.3)
    monkeypatch.setattr(lease, "SETTLE", 0.1)
    root = fresh()
    assert root.create("once", b"1")  # type: ignore[attr-defined]
    assert not root.create("once", b"2")  # type: ignore[attr-defined]
    with pytest.raises(FileExistsError):  # the store itself refuses, also when two ask at the same moment
        root.fs.pipe_file(root.key("once"), b"3", mode="create")  # type: ignore[attr-defined]
    assert root.read_bytes("once") == b"1"
    with hold_lease(root), pytest.raises(StorageError, match="another run is writing"), hold_lease(root):
        pass
    assert root.files() == ["once"]


def test_a_store_that_throttles_or_is_gone_for_a_while_is_waited_for_and_named(
    checking: CheckingServer, published: Root, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the midst of a publication, for longer than the first pauses; in the service, a minute and more."""
    monkeypatch.setattr(remote, "OUTAGE_PAUSES", (0.05,) * 12)  # several threads write
    store, write = fresh(), RemoteRoot._write

    def write_when_busy(self: RemoteRoot, path: str, pieces: Any) -> None:
        if path.startswith("subjects/"):
            checking.busy = 5  # refused: the first attempt, both short pauses, two of the long ones
        write(self, path, pieces)

    monkeypatch.setattr(RemoteRoot, "_write", write_when_busy)
    copy_dataset(published, store)
    assert digests(store) == digests(published)
    assert f"{store.url} does not answer" in caplog.text
    assert "the next attempt in" in caplog.text


def test_a_store_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    monkeypatch.setattr(remote, "OUTAGE_PAUSES", (600.0,))
    line.cut()
    with pytest.raises(StorageError, match="cannot look up a file"):
        fresh().size("file")


def test_a_lease_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, line: Line) -> None:
    """It would expire meanwhile, and Ctrl-C would not end the run."""
    with hold_lease(root := fresh()):
        root.write_bytes("file", b"")  # the store has answered
        monkeypatch.setattr(remote, "OUTAGE_PAUSES", (600.0,))
        line.cut()


TABLE = layout.table_path("observations", 1, "train", 1.0)
DATA_FILES = [".run.json", "images.zarr/latent/zarr.json", layout.image_shard_path(0), TABLE]
PROMISES = [layout.LEASE, layout.shard_manifest_path(1), layout.ROOT_MANIFEST]


@pytest.mark.operations
def test_killed_around_every_kind_of_write(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEWAL", 0.2), ("EXPIRY", 0.5), ("SETTLE", 0.1)):  # the killed run's lease must expire
        monkeypatch.setattr(lease, name, seconds)
    reference = whole_run()
    for path, arrived in [(path, False) for path in DATA_FILES + PROMISES] + [(path, True) for path in PROMISES]:
        root = fresh()
        status = exit_status(in_child(lambda root=root, p=path, a=arrived: die_at(root, p, a)))
        assert status == KILLED
        assert root.exists(path) is arrived
        assert is_published(root) is (arrived and path == layout.ROOT_MANIFEST)
        check_and_finish(root, DATA, reference, SMALL)


def die_at(root: Root, path: str, arrived: bool) -> None:
    """Run until ``path`` is put, and die before the request is sent or after it was answered."""
    real = s3fs.S3FileSystem._call_s3

    async def call(self: object, method: str, *arguments: object, **options: object) -> object:
        fatal = method == "put_object" and str(options["Key"]).endswith(f"/data/{path}")
        if fatal and not arrived:
            os._exit(KILLED)
        answer = await real(self, method, *arguments, **options)
        if fatal:
            os._exit(KILLED)
        return answer

    s3fs.S3FileSystem._call_s3 = call
    resume(root, DATA, SMALL)


def test_a_large_object_cut_between_its_parts_is_not_there(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    part, data = 5 << 20, os.urandom(11 << 20)  # S3 wants parts of 5 MiB at least
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: part)
    root = fresh()
    root.write_bytes("large", b"old")

    def write() -> None:
        real = s3fs.S3FileSystem._call_s3

        async def call(self: object, method: str, *arguments: object, **options: object) -> object:
            if method == "upload_part" and options["PartNumber"] == 2:
                os._exit(KILLED)
            return await real(self, method, *arguments, **options)

        s3fs.S3FileSystem._call_s3 = call
        root.write_bytes("large", data)

    assert exit_status(in_child(write)) == KILLED
    assert root.read_bytes("large") == b"old"
    record = root.write_bytes("large", data)
    assert root.sha256("large") == record.sha256
    assert root.read_ranges("large", [(part - 2, part + 2)]) == [data[part - 2 : part + 2]]


def cut_at(line: Line, monkeypatch: pytest.MonkeyPatch, number: int, mend: bool) -> None:
    """Cut the line at the n-th request; ``mend`` it for the one after."""
    real, requests = s3fs.S3FileSystem._call_s3, count()

    async def call(self: object, method: str, *arguments: object, **options: object) -> object:
        here = next(requests)
        if here == number:
            line.cut()
        elif mend and here == number + 1:
            line.open = True
        return await real(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)


def test_a_store_that_vanishes_loses_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRY", 1.0)  # the lease that could not be given back is waited for
    monkeypatch.setattr(lease, "RENEWAL", 0.4)
    reference = whole_run()
    for number in (3, 45):
        root = fresh()
        with monkeypatch.context() as patch:
            cut_at(line, patch, number, mend=False)
            with pytest.raises(StorageError, match="Check that the store can be reached, then run the same command"):
                resume(root, DATA, SMALL)
        line.open = True
        check_and_finish(root, DATA, reference, SMALL)


def test_a_short_outage_stops_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fresh()
    with monkeypatch.context() as patch:
        cut_at(line, patch, 40, mend=True)
        assert resume(root, DATA, SMALL) == [0, 1]
    assert resume(root, DATA, SMALL) == []


def test_a_missing_bucket_and_missing_credentials_are_clear_errors(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"cannot write a file \(s3://mistyped/x\)"):
        open_root("s3://mistyped").write_bytes("x", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="Set the store's credentials in the environment"):
        open_root("s3://bucket/data").read_bytes("x")


def test_a_body_corrupted_on_the_way_is_refused_and_sent_again(checking: CheckingServer) -> None:
    root, content = fresh(), bytes(range(256)) * 40
    checking.corrupt = 2
    record = root.write_bytes("a", content)
    assert checking.refused == 2
    assert root.read_bytes("a") == content
    assert root.vouched_sha256("a") == record.sha256 == root.sha256("a")
    checking.corrupt = 3
    with pytest.raises(StorageError, match="cannot write a file"):
        root.write_bytes("b", content)
    assert not root.exists("b")


def test_what_lies_in_the_store_is_judged_without_a_download(
    line: Line, published: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, read = fresh(), list[str]()
    assert isinstance(target, remote.RemoteRoot)
    copy_dataset(published, target)
    blocks = remote.RemoteRoot.blocks
    with monkeypatch.context() as patch:
        patch.setattr(remote.RemoteRoot, "blocks", lambda root, path: read.append(path) or blocks(root, path))
        copy_dataset(published, target)
    data = [path for path in read if path != layout.LEASE and not path.endswith(".json")]
    assert not data, "manifests are read, data are not"
    path = layout.image_shard_path(1)
    content = bytearray(target.read_bytes(path))
    content[100] ^= 4
    target.fs.pipe_file(target.key(path), bytes(content))  # by another program, without our checksum
    assert target.vouched_sha256(path) is None
    copy_dataset(published, target)
    assert digests(target) == digests(published)


def test_a_public_bucket_is_read_without_credentials(
    line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from image_longitudinal.cli.app import app

    root, owner = open_root("s3://bucket/public"), s3fs.S3FileSystem()
    write_dataset(root, SMALL)
    owner.chmod("bucket", "public-read")
    for name in root.files():
        owner.chmod(f"bucket/public/{name}", "public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        open_dataset("s3://bucket/public")
    dataset = pickle.loads(pickle.dumps(open_dataset("s3://bucket/public", storage_options={"anon": True})))
    np.testing.assert_array_equal(dataset.images, DATA.images)
    np.testing.assert_array_equal(dataset.to_xarray().image[1], DATA.images[1])
    assert dataset.subjects().num_rows == 2
    fetch = ["fetch", "s3://bucket/public", str(tmp_path / "copy"), "--anonymous"]
    assert CliRunner().invoke(app, fetch, catch_exceptions=False).exit_code == 0
    assert len(open_dataset(tmp_path / "copy")) == 2
