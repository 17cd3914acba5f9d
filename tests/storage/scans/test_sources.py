"""Archives and URLs of scans: what is in them arrives, what would do harm does not."""

import io
import os
import tarfile
import zipfile

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


def test_a_tar_header_that_asks_for_gigabytes_is_refused(tmp_path):
    """Attributes and long names of a member are read at once: 8 GB of zeros compress to 8 MB."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        item = tarfile.TarInfo("a.jpeg")
        item.type, item.size = kind, 8 << 30
        archive = tmp_path / "a.tar"
        archive.write_bytes(item.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        with pytest.raises(IngestError, match=r"damaged or of an unknown kind.*a header of 8,589,934,592 bytes"):
            local_scans(archive, tmp_path / "scratch")
