import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.clean_scan import CleanScan
from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans import scan_files
from image_longitudinal.storage.scans.frame_cache import FrameCache
from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, prepare_scan, scan_file


def picture(path, size=(80, 70), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path, **options)
    return path


def read(path):
    return scan_files.read_scan(scan_file(path, path.parent))


# finding


def test_scans_are_found_below_in_the_order_of_their_names(tmp_path):
    for name in ("b/z.PNG", "b/a.tif", "a/CNV-12-3.jpeg", "c.JPG", "a/deep/er/x.tiff"):
        picture(tmp_path / name)
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == ["a/CNV-12-3.jpeg", "a/deep/er/x.tiff", "b/a.tif", "b/z.PNG", "c.JPG"]
    assert found.set_aside == []
    assert find_scans(str(tmp_path)) == found


@pytest.mark.parametrize(
    ("name", "patient", "label"),
    [
        ("CNV/CNV-103044-135.jpeg", "103044", "CNV"),
        ("train/NORMAL/DRUSEN-103044-1.jpeg", "103044", "DRUSEN"),
        ("CNV-7-1.png", "7", "CNV"),
        ("NORMAL/left eye.png", "NORMAL/left eye", "NORMAL"),
        ("some/where/CNV-7.png", "some/where/CNV-7", "where"),
        ("scan.tif", "scan", "unlabelled"),
    ],
)
def test_a_name_says_whose_scan_it_is(tmp_path, name, patient, label):
    file = scan_file(tmp_path / name, tmp_path)
    assert (file.patient, file.label, file.name) == (patient, label, name)


def test_other_files_are_listed_and_sidecars_counted(tmp_path):
    picture(tmp_path / "A" / "a.png")
    for name in ("notes.docx", "A/a.gif", "files.tsv", "SHA256SUMS", "README.md", ".DS_Store", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == ["A/a.png"]
    assert found.set_aside == [SetAside("A/a.gif", "not an image file"), SetAside("notes.docx", "not an image file")]
    assert found.ignored == 5


def test_links_do_not_lead_out_of_the_folder_and_a_pipe_is_not_opened(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    picture(inside / "a.png")
    picture(outside / "b.png")
    (inside / "folder").symlink_to(outside)
    (inside / "b.png").symlink_to(outside / "b.png")
    (inside / "same.png").symlink_to(inside / "a.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    (inside / "nowhere.png").symlink_to(inside / "missing.png")
    (inside / "up").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.png")
    (tmp_path / "link").symlink_to(inside)
    assert len(find_scans(tmp_path / "link").scans) == 2, "a linked folder can be searched"
    found = find_scans(inside)
    assert [scan.name for scan in found.scans] == ["a.png", "same.png"]
    assert {item.file: item.reason.split(":")[0] for item in found.set_aside} == {
        "b.png": "link that leaves the folder",
        "folder": "link to a folder, not followed",
        "loop.png": "cannot be reached",
        "nowhere.png": "cannot be reached",
        "pipe.png": "not a regular file",
        "up": "link to a folder, not followed",
    }


def test_a_folder_without_scans_is_an_error(tmp_path):
    with pytest.raises(IngestError, match=r"no scans found .* got an empty folder"):
        find_scans(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    others = r"expected files ending in .*\.jpeg.* got 1 other files"
    for name, message in (("", others), ("missing", "got nothing there"), ("a.txt", "got a file")):
        with pytest.raises(IngestError, match=message):
            find_scans(tmp_path / name)


def test_folders_that_cannot_be_listed(tmp_path, monkeypatch):
    picture(tmp_path / "ok" / "a.png")
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refusing(shut):
        def listing(path):
            if str(path) == str(shut):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        return listing

    monkeypatch.setattr(os, "scandir", refusing(tmp_path / "shut"))
    assert find_scans(tmp_path).set_aside == [SetAside("shut", "folder cannot be listed: Permission denied")]
    monkeypatch.setattr(os, "scandir", refusing(tmp_path))
    with pytest.raises(IngestError, match="Permission denied"):
        find_scans(tmp_path)


# reading


@pytest.mark.parametrize(
    ("mode", "extension", "channels", "dtype"),
    [
        ("L", "png", (), np.uint8), ("L", "jpeg", (), np.uint8), ("1", "tif", (), np.bool_),
        ("F", "tif", (), np.float32), ("I", "tif", (), np.int32), ("LA", "png", (2,), np.uint8),
        ("P", "png", (3,), np.uint8), ("RGB", "jpg", (3,), np.uint8), ("RGBA", "png", (4,), np.uint8),
        ("CMYK", "jpeg", (3,), np.uint8), ("YCbCr", "jpeg", (3,), np.uint8), ("LAB", "tif", (3,), np.uint8),
    ],
)  # fmt: skip
def test_every_mode_is_decoded(tmp_path, mode, extension, channels, dtype):
    scan = read(picture(tmp_path / f"a.{extension}", mode=mode))
    assert (scan.content.shape, scan.content.dtype) == ((70, 80, *channels), dtype)
    assert (scan.width, scan.height) == (80, 70)
    assert len(scan.sha256) == 64


def test_sixteen_bits_are_kept_and_a_palette_gives_its_colours_not_its_indices(tmp_path):
    values = np.arange(70 * 80, dtype=np.uint16).reshape(70, 80) * 11
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        content = read(tmp_path / name).content
        np.testing.assert_array_equal(content, values)
        assert content.dtype.isnative
    image = Image.new("P", (64, 64), 3)
    image.putpalette([0] * 9 + [10, 200, 30] + [0] * 756)
    image.save(tmp_path / "b.png")
    assert (read(tmp_path / "b.png").content == [10, 200, 30]).all()


def png_header(width, height):
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 12_000, 60_000, 2_000_000])
def test_an_absurdly_large_image_is_not_decoded(tmp_path, side, monkeypatch):
    monkeypatch.setattr(scan_files, "picture_pixels", lambda image: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(png_header(side, side))
    assert "more than 64 megapixels" in read(tmp_path / "a.png").reason


def save_sparse(path):
    path.touch()
    os.truncate(path, 300_000_000)  # takes no room


def save_three_pages(path):
    PAGE.save(path, "TIFF", save_all=True, append_images=[PAGE, PAGE])


PAGE = Image.new("L", (80, 80))
NO_IMAGE = "not a JPEG, PNG or TIFF image"


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"hello, this is text"), NO_IMAGE),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0"), NO_IMAGE),
        (lambda path: path.write_bytes(b"II*\x00\x08\x00\x00\x00\x05\x00"), NO_IMAGE),
        (save_sparse, "300 MB, more than 200 MB"),
        (lambda path: PAGE.save(path, "GIF"), NO_IMAGE),
        (save_three_pages, "3 frames in one file, expected 1"),
        (lambda path: picture(path, size=(63, 500)), "63x500: less than 64 pixels a side"),
    ],
)
def test_files_that_cannot_be_used_are_set_aside_with_a_reason(tmp_path, save, reason):
    save(tmp_path / "a.png")
    assert read(tmp_path / "a.png") == SetAside("a.png", reason)
    assert not isinstance(read(picture(tmp_path / "b.png", size=(64, 64))), SetAside)


@pytest.mark.parametrize("extension", ["jpeg", "png", "tif"])
def test_damage_is_a_reason_and_never_an_exception(tmp_path, extension):
    """Truncated anywhere: set aside. Random bytes changed anywhere: a scan or a reason."""
    path = picture(tmp_path / f"a.{extension}", size=(200, 200))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)].tobytes())
        assert isinstance(read(path), SetAside)
    rng = np.random.default_rng(0)
    for round_ in range(60):
        damaged = data.copy()
        damaged[rng.integers(0, 200 if round_ % 2 else len(data), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        result = read(path)
        assert isinstance(result, SetAside) or result.content.size


def test_what_preparation_refuses_is_set_aside(tmp_path):
    def refuse(pixels):
        raise IngestError("the scan shows nothing")

    file = scan_file(picture(tmp_path / "a.png"), tmp_path)
    assert prepare_scan(file, refuse, np.shape) == SetAside("a.png", "the scan shows nothing")
    prepared = prepare_scan(file, lambda pixels: CleanScan(pixels, ("inverted",)), np.shape)
    assert prepared.cures == ("inverted",)
    assert (prepared.content, prepared.width, prepared.sha256) == ((70, 80), 80, read(file.path).sha256)
    file.path.unlink()
    assert prepare_scan(file, refuse, np.shape).reason.startswith("unreadable: No such file")


def test_a_scan_is_cleaned_once_and_adding_some_cleans_those(tmp_path):
    cleaned = []

    def clean(pixels):
        cleaned.append(pixels.shape)
        return CleanScan(np.ascontiguousarray(255 - pixels), ("inverted: dark was bright", "writing: 200 µm"))

    def ingest():
        files = [scan_file(path, tmp_path / "scans") for path in sorted((tmp_path / "scans").iterdir())]
        return [prepare_scan(file, clean, lambda framed: framed, FrameCache(tmp_path / "frames")) for file in files]

    picture(tmp_path / "scans" / "a.png")
    picture(tmp_path / "scans" / "b.png", size=(90, 70))
    first = ingest()
    picture(tmp_path / "scans" / "c.png", size=(100, 70))
    (tmp_path / "scans" / "b.png").rename(tmp_path / "scans" / "z.png")  # the bytes count, not the name
    again = ingest()
    assert cleaned == [(70, 80), (70, 90), (70, 100)]
    np.testing.assert_array_equal(again[0].content, first[0].content)
    np.testing.assert_array_equal(again[2].content, first[1].content)
    assert again[0].cures == first[0].cures == ("inverted: dark was bright", "writing: 200 µm")

    for path in (tmp_path / "frames").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(ingest()[0].content, first[0].content)
    assert len(cleaned) == 6  # damaged ones are cleaned again


def test_no_flipped_bit_of_a_kept_frame_gives_other_pixels(tmp_path):
    cache, frame = FrameCache(tmp_path), np.random.default_rng(1).integers(0, 255, (12, 17), dtype=np.uint8)
    cache.put("ab" * 32, CleanScan(frame, ("upside-down: mirrored",)))
    (path,) = tmp_path.rglob("*.png")
    good, missed = path.read_bytes(), 0
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = cache.get("ab" * 32)
        missed += found is None
        assert found is None or (np.array_equal(found.frame, frame) and found.cures == ("upside-down: mirrored",))
    assert missed > 4 * len(good)  # the rest is in what decides no pixel
