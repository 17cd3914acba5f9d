import errno
import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.errors import IngestError, StorageError
from image_longitudinal.models.scans.cleaning import to_sizes
from image_longitudinal.models.scans.plausibility import clean_scan
from image_longitudinal.storage.scans.contact_sheet import contact_sheet
from image_longitudinal.storage.scans.prepared import ImageSource, open_prepared
from image_longitudinal.storage.scans.prepared_writer import npy_writer, phantom_scan, write_prepared
from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, prepare_scan
from image_longitudinal.storage.scans.splits import SplitRule

SIZES = (32, 16)
OPTIONS = {
    "sizes": SIZES,
    "split": SplitRule({"train": 0.6, "validation": 0.2, "test": 0.2}, seed=0),
    "source": ImageSource("scans", 2, "somewhere", "none"),
}


def squares(seed):
    rng = np.random.default_rng(seed)
    return {size: rng.integers(0, 256, (size, size)).astype(np.uint8) for size in SIZES}


def phantoms(n=12):
    return [phantom_scan(f"phantom-{i:03d}", squares(i), "phantom") for i in range(n)]


@pytest.fixture
def written(tmp_path):
    return write_prepared(tmp_path / "set", phantoms(), **OPTIONS)


def test_what_is_written_is_read_and_splits_cover_all_images_once(written, tmp_path):
    again = open_prepared(tmp_path / "set")
    again.verify()
    assert (again, len(again), again.sizes) == (written, 12, [32, 16])
    for size in SIZES:
        images = again.images(size)
        assert isinstance(images, np.memmap)
        assert not images.flags.writeable
        np.testing.assert_array_equal(images, [squares(i)[size] for i in range(12)])
    assert again.labels == ["phantom"] * 12
    assert sorted(os.listdir(tmp_path)) == ["set"]
    files = ["contact_sheet.png", "images-16.npy", "images-32.npy", "manifest.json"]
    assert sorted(os.listdir(tmp_path / "set")) == files
    parts = [written.split(name) for name in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(12))
    assert [len(part) for part in parts] == [7, 3, 2]
    assert written.split("nobody").size == 0


def test_the_manifest_lists_every_file(tmp_path):
    twin = phantom_scan("twin", squares(3), "phantom")
    scans = [*phantoms(5), SetAside("b.png", "empty file"), twin]
    aside = [SetAside("a.txt", "not an image file")]
    made = write_prepared(tmp_path / "set", scans, **OPTIONS, set_aside=aside, ignored=4)
    twins = SetAside("twin", "same bytes as phantom-003")
    assert made.manifest.set_aside == (*aside, scans[5], twins)
    counts = made.manifest.counts
    assert (counts.images, counts.patients, counts.cured, counts.set_aside, counts.ignored) == (5, 5, 0, 3, 4)
    assert sum(counts.by_split.values()) == 5
    assert counts.by_class == {"phantom": 5}
    record = made.manifest.images[2]
    assert record.file == "phantom-002"
    assert (record.width, record.height, record.label, record.patient) == (32, 32, "phantom", "phantom-002")
    content = json.loads((tmp_path / "set" / "manifest.json").read_text())
    preparation = {"version": 2, "denoise": "none"}
    assert content["source"] == {"kind": "scans", "folder": "somewhere", "preparation": preparation}
    assert content["counts"]["by_class"] == {"phantom": 5}
    assert content["images"][2]["class"] == "phantom"
    assert open_prepared(tmp_path / "set") == made


def test_cures_are_listed_and_those_without_keep_their_digest(written, tmp_path):
    cured = [replace(scan, cures=("inverted: reversed", "writing: blanked")) if i == 3 else scan
             for i, scan in enumerate(phantoms())]  # fmt: skip
    made = write_prepared(tmp_path / "cured", cured, **OPTIONS)
    assert made.manifest.counts.cured == 1
    assert open_prepared(tmp_path / "cured").manifest.images[3].cures == ("inverted: reversed", "writing: blanked")
    listed = json.loads((tmp_path / "cured" / "manifest.json").read_text())["images"]
    assert ["cures" in image for image in listed] == [i == 3 for i in range(len(listed))]
    assert made.digest != written.digest


def test_the_digest_names_the_content_not_the_place(written, tmp_path):
    elsewhere = write_prepared(tmp_path / "other", phantoms(), **{**OPTIONS, "source": ImageSource("phantom", 1)})
    assert elsewhere.digest == written.digest
    (tmp_path / "set").rename(tmp_path / "moved")
    assert open_prepared(tmp_path / "moved").digest == written.digest
    assert write_prepared(tmp_path / "less", phantoms(11), **OPTIONS).digest != written.digest
    options = {**OPTIONS, "split": replace(OPTIONS["split"], seed=1)}
    assert write_prepared(tmp_path / "resplit", phantoms(), **options).digest != written.digest


def test_the_same_again_keeps_what_is_there_and_other_content_does_not_overwrite_it(written, tmp_path):
    before = (tmp_path / "set" / "images-32.npy").stat().st_ino
    assert write_prepared(tmp_path / "set", phantoms(), **OPTIONS).digest == written.digest
    assert (tmp_path / "set" / "images-32.npy").stat().st_ino == before
    with pytest.raises(StorageError, match="other prepared images are here already"):
        write_prepared(tmp_path / "set", phantoms(5), **OPTIONS)
    assert open_prepared(tmp_path / "set").digest == written.digest
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    for target in ("thesis", "thesis/chapter1.tex"):
        with pytest.raises(StorageError, match="holds something else"):
            write_prepared(tmp_path / target, phantoms(), **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["set", "thesis"]


@pytest.mark.parametrize(
    ("scans", "minimum", "got"),
    [
        ([], 1, "got 0 of 0"),
        (phantoms(4), 5, "got 4 of 4"),
        (phantoms(2), 1, "got 2 of 2"),
        ([*phantoms(2), SetAside("a", "empty file"), SetAside("b", "empty file")], 3, "set aside: 2 x empty file"),
    ],
)
def test_too_few_images_are_refused_and_leave_nothing(tmp_path, scans, minimum, got):
    with pytest.raises(IngestError, match=got):
        write_prepared(tmp_path / "set", scans, **OPTIONS, minimum=minimum)
    assert os.listdir(tmp_path) == []


def test_images_are_taken_one_at_a_time(tmp_path):
    """The rows of image i are on their way to disk before image i + 1 is requested; an empty folder is a target."""
    (tmp_path / "set").mkdir()
    held = []

    def lazily():
        for i in range(40):
            held.append(i)
            yield phantom_scan(f"{i}", squares(i), "phantom")
            assert held.pop() == i

    assert len(write_prepared(tmp_path / "set", lazily(), **OPTIONS)) == 40


WRONG = phantom_scan("wrong", {32: np.zeros((32, 31), np.uint8), 16: np.zeros((16, 16), np.uint8)}, "phantom")


FULL = OSError(errno.ENOSPC, "No space left")


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (RuntimeError("a worker died"), RuntimeError, "a worker died"),
        (FULL, StorageError, r"cannot write the prepared .*No space.*Free some"),
        (WRONG, StorageError, "wrong shape or type"),
    ],
)
def test_an_error_while_writing_leaves_nothing(tmp_path, last, error, message):
    def scans():
        yield from phantoms()
        if isinstance(last, Exception):
            raise last
        yield last

    with pytest.raises(error, match=message):
        write_prepared(tmp_path / "set", scans(), **OPTIONS)
    assert os.listdir(tmp_path) == []


def write_for_ever(folder, started):
    def endless():
        yield from phantoms()
        started.set()
        time.sleep(60)

    write_prepared(folder, endless(), **OPTIONS)


def test_a_killed_run_leaves_nothing_half_made_and_the_next_one_clears_up(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=write_for_ever, args=(tmp_path / "set", started))
    process.start()
    assert started.wait(20)
    (running,) = os.listdir(tmp_path)
    assert running.startswith(".set.")
    write_prepared(tmp_path / "set", phantoms(3), **OPTIONS)  # while the other still writes: its folder stays
    assert running in os.listdir(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(open_prepared(tmp_path / "set")) == 3
    write_prepared(tmp_path / "set", phantoms(3), **OPTIONS)
    assert os.listdir(tmp_path) == ["set"]


# opening what is damaged


def edited(change):
    """Damage of the manifest: ``change`` of its text."""

    def damage(folder):
        path = folder / "manifest.json"
        path.write_text(change(path.read_text()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited(lambda text: "[1, 2]"), "not prepared images of this version"),
        (edited(lambda text: text[:200]), "damaged .*manifest.json"),
        (edited(lambda text: text.replace('"version": 1', '"version": 2', 1)), "images 1; got prepared-images 2"),
        (edited(lambda text: text.replace('"split": "test"', '"split": "train"', 1)), "matches its digest"),
        (edited(lambda text: text.replace('"files": {', '"fils": {')), "matches its digest"),
        (lambda folder: os.truncate(folder / "images-32.npy", 5000), "images-32.npy.*got 5000 bytes"),
        (lambda folder: (folder / "images-16.npy").unlink(), "images-16.npy.*got no file"),
    ],
)
def test_damage_is_found_on_opening(written, tmp_path, damage, message):
    damage(tmp_path / "set")
    with pytest.raises(StorageError, match=message):
        open_prepared(tmp_path / "set")


def test_what_is_missing_is_named_a_changed_pixel_is_found_and_a_pickle_is_not_loaded(written, tmp_path):
    with pytest.raises(StorageError, match="no prepared images here"):
        open_prepared(tmp_path)
    with pytest.raises(StorageError, match=r"expected one of \[32, 16\]; got 64"):
        written.images(64)
    path = tmp_path / "set" / "images-32.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"images-32\.npy"):
        open_prepared(tmp_path / "set").verify()
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(StorageError, match="damaged"):
        written.images(32)


def all_images(folder):
    opened = open_prepared(folder)
    return [opened.images(size) for size in opened.sizes]


@pytest.mark.parametrize("name", ["images-32.npy", "images-16.npy", "manifest.json"])
def test_damaged_images_are_not_used_and_the_next_run_replaces_them(written, tmp_path, name):
    path, source = tmp_path / "set" / name, random.Random(5)
    good = path.read_bytes()
    for bit in source.sample(range(8 * len(good)), 60):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=name):
            all_images(tmp_path / "set")
    assert write_prepared(tmp_path / "set", phantoms(), **OPTIONS).digest == written.digest
    assert path.read_bytes() == good


@pytest.mark.parametrize("n", [0, 1, 9, 10, 1000])
def test_a_growing_file_is_a_plain_npy(tmp_path, n):
    rows = np.random.default_rng(0).integers(0, 256, (n, 3, 5)).astype(np.uint8)
    with npy_writer(tmp_path / "a.npy", (3, 5)) as append:
        for row in rows:
            append(row)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a"] * 5, {"a": 5}),
        (["a"] * 100, {"a": 48}),
        (["a"] * 100 + ["b"] * 100, {"a": 24, "b": 24}),
        (["a"] * 100 + ["b"] * 3, {"a": 45, "b": 3}),
        ([str(i) for i in range(60)], None),
    ],
)
def test_a_contact_sheet_shows_every_class_alike(labels, expected, monkeypatch):
    shown = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, place, text, **options: shown.append(text))
    sheet = contact_sheet(np.full((len(labels), 16, 16), 99, np.uint8), labels, tile=32)
    assert len(shown) == min(48, len(labels))
    if expected:
        assert {label: shown.count(label) for label in expected} == expected
    assert (np.asarray(sheet) == 99).sum() == len(shown) * 32 * 32


def test_real_scans_become_a_set(kermany_sample, tmp_path):
    """Some real scans with bad company: what can be used is used, what cannot is listed, patients stay together."""
    folder = tmp_path / "scans"
    for file in sorted(kermany_sample.glob("*/*.jpeg"))[::6]:
        target = folder / file.relative_to(kermany_sample)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    usable = sorted(folder.rglob("*.jpeg"))
    (folder / "CNV" / "CNV-1-1.jpeg").write_bytes(usable[0].read_bytes()[:9000])
    (folder / "CNV" / "a copy.jpeg").write_bytes(usable[0].read_bytes())
    (folder / "CNV" / "notes.txt").write_text("x")
    Image.new("L", (500, 500), 255).save(folder / "blank.png")
    found = find_scans(folder)
    clean, finish = partial(clean_scan, denoiser="none"), partial(to_sizes, sizes=(512, 64))
    job, options = partial(prepare_scan, clean=clean, finish=finish), {**OPTIONS, "sizes": (512, 64)}
    with ThreadPoolExecutor(2) as pool:
        made = write_prepared(tmp_path / "set", pool.map(job, found.scans), **options, set_aside=found.set_aside)
    assert len(made) == len(usable)
    unused = ["CNV/CNV-1-1.jpeg", "CNV/a copy.jpeg", "CNV/notes.txt", "blank.png"]
    assert [item.file for item in made.manifest.set_aside] == unused
    assert set(made.labels) == {"CNV", "DME", "DRUSEN", "NORMAL"}
    assert made.images(512).shape == (len(usable), 512, 512)
    splits = {record.patient: record.split for record in made.manifest.images}
    assert all(splits[record.patient] == record.split for record in made.manifest.images)
    assert made.images(64).max(axis=(1, 2)).min() > 60
    assert open_prepared(tmp_path / "set").digest == made.digest
