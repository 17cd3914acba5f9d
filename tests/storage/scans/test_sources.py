"""Archives and URLs of scans: what is in them arrives, what would do harm does not."""

import io
import os
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans import sources
from image_longitudinal.storage.scans.sources import local_scans


def jpeg(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (70, 80)).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


MEMBERS = {"OCT/CNV/CNV-1-1.jpeg": jpeg(1), "OCT/DME/DME-2-1.jpeg": jpeg(2), "OCT/readme.txt": b"words"}


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def make_tar(path, members, links=()):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            file.addfile(item, io.BytesIO(data))
        for name, target, kind in links:
            item = tarfile.TarInfo(name)
            item.type, item.linkname = kind, target
            file.addfile(item)
    return path


def found(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


IMAGES = {name: data for name, data in MEMBERS.items() if name.endswith("jpeg")}


@pytest.mark.parametrize(("make", "name"), [(make_zip, "a.zip"), (make_tar, "a.tar"), (make_tar, "a.tar.gz")])
def test_an_archive_gives_its_images(tmp_path, make, name):
    archive = make(tmp_path / name, MEMBERS)
    folder = local_scans(archive, tmp_path / "scratch")
    assert found(folder) == IMAGES
    before = folder.stat().st_mtime_ns
    assert local_scans(str(archive), tmp_path / "scratch") == folder  # once is enough
    assert folder.stat().st_mtime_ns == before
    assert os.listdir(tmp_path / "scratch") == [folder.name]


def test_a_folder_is_itself(tmp_path):
    assert local_scans(tmp_path, tmp_path / "scratch") == tmp_path
    assert local_scans(f"file://{tmp_path}", tmp_path / "scratch") == tmp_path
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("name", ["../evil.jpeg", "a/../../evil.jpeg", "..\\evil.jpeg", "C:evil.jpeg"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_paths_that_lead_elsewhere_are_passed_over(tmp_path, make, name):
    suffix = "zip" if make is make_zip else "tar"
    archive = make(tmp_path / f"a.{suffix}", {name: jpeg(), **MEMBERS})
    folder = local_scans(archive, tmp_path / "deep" / "scratch")
    assert found(folder) == IMAGES
    assert not list(tmp_path.rglob("*evil*"))


def test_absolute_paths_stay_inside(tmp_path):
    folder = local_scans(make_tar(tmp_path / "a.tar", {"/CNV/CNV-1-1.jpeg": jpeg()}), tmp_path / "scratch")
    assert list(found(folder)) == ["CNV/CNV-1-1.jpeg"]


def test_links_and_devices_are_passed_over(tmp_path):
    links = [("a.jpeg", "/etc/passwd", tarfile.SYMTYPE), ("b.jpeg", "../../secret", tarfile.LNKTYPE)]
    links += [("c.jpeg", "", tarfile.CHRTYPE), ("d.jpeg", "", tarfile.FIFOTYPE)]
    assert found(local_scans(make_tar(tmp_path / "a.tar", MEMBERS, links), tmp_path / "scratch")) == IMAGES
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        item = zipfile.ZipInfo("link.jpeg")
        item.external_attr = 0o120777 << 16
        file.writestr(item, "/etc/passwd")
        file.writestr("CNV-1-1.jpeg", jpeg())
    assert list(found(local_scans(tmp_path / "b.zip", tmp_path / "scratch"))) == ["CNV-1-1.jpeg"]


def test_a_bomb_and_a_member_larger_than_an_image_may_be_are_refused_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "RATIO_FROM", 1 << 20)
    archive = make_zip(tmp_path / "a.zip", {f"{i}.png": bytes(1 << 20) for i in range(3)})
    with pytest.raises(IngestError, match=r"archive is larger than allowed .*a\.zip"):
        local_scans(archive, tmp_path / "scratch")
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(IngestError, match="larger than it may be"):
        local_scans(make_zip(tmp_path / "b.zip", MEMBERS), tmp_path / "scratch")
    assert os.listdir(tmp_path / "scratch") == []


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"nothing of the kind"])
@pytest.mark.parametrize(("make", "name"), [(make_zip, "a.zip"), (make_tar, "a.tar.gz")])
def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path, make, name, damage):
    archive = make(tmp_path / name, MEMBERS)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(IngestError, match="archive is damaged"):
        local_scans(archive, tmp_path / "scratch")
    assert os.listdir(tmp_path / "scratch") == []


def test_another_file_is_no_source(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(IngestError, match=r"a folder, or a file ending in \.zip"):
        local_scans(tmp_path / "a.docx", tmp_path / "scratch")


def test_urls_of_folders_and_archives(tmp_path):
    memory = fsspec.filesystem("memory")
    try:
        for name, data in MEMBERS.items():
            memory.pipe_file(f"/scans/{name}", data)
        memory.put_file(str(make_zip(tmp_path / "a.zip", MEMBERS)), "/archives/a.zip")
        folder = local_scans("memory://scans", tmp_path / "scratch")
        assert found(folder) == IMAGES
        assert local_scans("memory://scans", tmp_path / "scratch") == folder
        assert found(local_scans("memory://archives/a.zip", tmp_path / "scratch")) == IMAGES
    finally:
        memory.rm("/", recursive=True)
    with pytest.raises(IngestError, match=r"cannot fetch the scans .*memory://gone.*FileNotFoundError"):
        local_scans("memory://gone", tmp_path / "scratch")


def test_an_archive_replaced_by_one_of_the_same_name_size_and_time_is_read_again(tmp_path):
    def members(seed):
        return {"CNV-1-1.png": np.random.default_rng(seed).bytes(1000)}

    archive = make_tar(tmp_path / "a.tar", members(1))
    before = archive.stat()
    first = local_scans(archive, tmp_path / "scratch")
    make_tar(archive, members(2))
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (archive.stat().st_size, archive.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = local_scans(archive, tmp_path / "scratch")
    assert found(second) == members(2)
    assert found(first) == members(1)  # a run that reads it goes on
    archive.rename(tmp_path / "b.tar")
    assert local_scans(tmp_path / "b.tar", tmp_path / "scratch") == second  # the name does not matter


def test_a_remote_folder_is_read_again_when_a_file_of_it_changes(tmp_path):
    memory = fsspec.filesystem("memory")
    try:
        for name, data in IMAGES.items():
            memory.pipe_file(f"/scans/{name}", data)
        before = local_scans("memory://scans", tmp_path / "scratch")
        changed = dict(IMAGES, **{"OCT/CNV/CNV-1-1.jpeg": IMAGES["OCT/CNV/CNV-1-1.jpeg"][::-1]})  # as long as before
        memory.pipe_file("/scans/OCT/CNV/CNV-1-1.jpeg", changed["OCT/CNV/CNV-1-1.jpeg"])
        after = local_scans("memory://scans", tmp_path / "scratch")
        assert found(after) == changed
        assert found(before) == IMAGES
        memory.pipe_file("/scans/OCT/DME/DME-2-2.jpeg", jpeg(3))
        assert len(found(local_scans("memory://scans", tmp_path / "scratch"))) == 3
        memory.pipe_file("/scans/OCT/readme.txt", b"no scan")
        assert len(os.listdir(tmp_path / "scratch")) == 3
    finally:
        memory.rm("/", recursive=True)


class Quiet(SimpleHTTPRequestHandler):
    """A web server that may not say when a file was changed."""

    downloads = 0
    says_when = True

    def send_header(self, keyword, value):
        if keyword != "Last-Modified" or self.says_when:
            super().send_header(keyword, value)

    def do_GET(self):
        type(self).downloads += 1
        super().do_GET()

    def log_message(self, format, *arguments):
        pass


@pytest.mark.parametrize("says_when", [True, False])
def test_an_archive_on_a_web_server(tmp_path, says_when, monkeypatch):
    served, scratch = tmp_path / "served", tmp_path / "scratch"
    served.mkdir()
    monkeypatch.setattr(Quiet, "says_when", says_when)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/a.tar"
    try:
        for seed in (1, 2):  # archives of the same length
            members = {"CNV-1-1.png": np.random.default_rng(seed).bytes(1000)}
            os.utime(make_tar(served / "a.tar", members), (seed, seed))
            folder = local_scans(url, scratch)
            assert found(folder) == members
            before = Quiet.downloads
            assert local_scans(url, scratch) == folder
            assert (Quiet.downloads == before) == says_when  # else it is fetched to see whether it has changed
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(os.listdir(scratch)) == 2


def test_a_tar_header_that_asks_for_gigabytes_is_refused(tmp_path):
    """Attributes and long names of a member are read at once: 8 GB of zeros compress to 8 MB."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        item = tarfile.TarInfo("a.jpeg")
        item.type, item.size = kind, 8 << 30
        archive = tmp_path / "a.tar"
        archive.write_bytes(item.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        with pytest.raises(IngestError, match=r"damaged or of an unknown kind.*a header of 8,589,934,592 bytes"):
            local_scans(archive, tmp_path / "scratch")
