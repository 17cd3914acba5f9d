"""Heidelberg's .vol and .E2E files, made by the description of eyepy, and read as eyepy's own readers read them."""

import sys

import numpy as np
import pytest

from image_longitudinal.storage.scans.scan_files import ReadScan, find_scans, listed_scan, read_scan
from image_longitudinal.storage.scans.volumes import read_slice
from tests.storage.scans.heyex_files import INFRARED, write_e2e, write_vol

FLOAT_ERROR = 1  # grey levels: the codes of .E2E are a float of 16 bits, and both kinds are rounded once


def stack(slices=3, rows=70):
    return np.random.default_rng(0).integers(0, 256, (slices, rows, 90)).astype(np.uint8)


def reasons(folder):
    np.save(folder / "good.npy", stack())
    return {item.file: item.reason for item in find_scans(folder).set_aside}


@pytest.fixture
def _eyepy():
    pytest.importorskip("eyepy")


@pytest.mark.usefixtures("_eyepy")
def test_b_scans_of_a_vol_file_are_scans_of_its_patient_as_eyepy_shows_them(tmp_path):
    import eyepy

    (tmp_path / "DME").mkdir()
    scans = stack()
    write_vol(tmp_path / "DME" / "left.vol", scans)
    write_vol(tmp_path / "DME" / "right.VOL", scans[::-1], pad=1000)
    write_vol(tmp_path / "other.vol", scans[:1], patient="another")
    found = find_scans(tmp_path)
    names = [*(f"DME/left.vol#00{i}" for i in range(3)), *(f"DME/right.VOL#00{i}" for i in range(3)), "other.vol"]
    assert [scan.name for scan in found.scans] == names
    patients = [scan.patient for scan in found.scans]
    assert patients[:6] == [patients[0]] * 6, "both eyes are of one patient"
    assert patients[6] != patients[0]
    assert not any("345" in patient for patient in patients), "a digest, not the number"
    theirs = eyepy.import_heyex_vol(tmp_path / "DME" / "left.vol")
    for index in range(3):
        read = read_scan(listed_scan(tmp_path, names[index]))
        assert isinstance(read, ReadScan)
        np.testing.assert_array_equal(read.content, theirs[index].data)
        np.testing.assert_allclose(read.content.astype(int), scans[index], atol=FLOAT_ERROR)
        np.testing.assert_allclose(read_slice(tmp_path / "DME" / "right.VOL", index), read_slice(
            tmp_path / "DME" / "left.vol", 2 - index), atol=0)  # fmt: skip


@pytest.mark.usefixtures("_eyepy")
def test_b_scans_of_an_e2e_file_are_scans_of_its_patient_without_the_infrared_image(tmp_path):
    from eyepy.core.utils import from_e2e_intensity
    from eyepy.io.he.e2e_reader import HeE2eReader

    eyes = [stack(), stack(slices=12, rows=64)]
    path = tmp_path / "both.E2E"
    write_e2e(path, eyes)
    write_vol(tmp_path / "same.vol", stack(slices=1))
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == [*(f"both.E2E#{i:03d}" for i in range(15)), "same.vol"]
    assert len({scan.patient for scan in found.scans}) == 1, "one patient, whatever the kind of file"
    with HeE2eReader(path) as reader:
        of_patient = reader.file_hierarchy.patients[5].studies[1].series
        theirs = [one.get_bscan() for number in (0, 1) for one in of_patient[number]._sorted_slices()]
    for index, scan in enumerate([one for eye in eyes for one in eye]):
        read = read_scan(found.scans[index])
        assert isinstance(read, ReadScan)
        np.testing.assert_array_equal(read.content, from_e2e_intensity(theirs[index].copy()))
        np.testing.assert_allclose(read.content.astype(int), scan, atol=FLOAT_ERROR)
        assert not (read.content == INFRARED).all()


@pytest.mark.usefixtures("_eyepy")
def test_where_nothing_was_scanned_is_black(tmp_path):
    write_vol(tmp_path / "a.vol", np.full((1, 64, 64), 200, np.uint8))
    data = bytearray((tmp_path / "a.vol").read_bytes())
    data[-16:] = np.array([np.finfo("f4").max, np.nan, -1, np.inf], "<f4").tobytes()
    (tmp_path / "a.vol").write_bytes(data)
    pixels = read_slice(tmp_path / "a.vol", 0)
    assert pixels[-1, -4:].tolist() == [0, 0, 0, 0]
    assert pixels[-1, -5] == 200


@pytest.mark.usefixtures("_eyepy")
def test_what_holds_no_scans_of_one_patient_is_set_aside_with_the_reason(tmp_path):
    scans = stack()
    whole = write_vol(tmp_path / "cut.vol", scans)
    (tmp_path / "cut.vol").write_bytes(whole[:-5])
    write_vol(tmp_path / "nobody.vol", scans, patient="")
    write_vol(tmp_path / "ring.vol", scans[:1], pattern=2)
    (tmp_path / "text.vol").write_text("x" * 5000)
    whole = write_e2e(tmp_path / "cut.e2e", [scans])
    (tmp_path / "cut.e2e").write_bytes(whole[:-5])
    write_e2e(tmp_path / "two.e2e", [scans], patients=("a", "b"))
    write_e2e(tmp_path / "ring.e2e", [scans], patterns=(2,))
    (tmp_path / "text.e2e").write_text("x" * 5000)
    found = reasons(tmp_path)
    assert found.pop("cut.vol").startswith("damaged or truncated .vol file")
    assert found.pop("nobody.vol").startswith("the file names no patient; expected a patient ID")
    assert found.pop("ring.vol").startswith("a circular scan around the optic disc")
    assert found.pop("text.vol").startswith(("damaged", "no B-scans"))
    assert found.pop("cut.e2e").startswith("damaged or truncated .E2E file")
    assert found.pop("two.e2e").startswith("an .E2E file of several patients, or of none; expected one patient; got 2")
    assert found.pop("ring.e2e").startswith("no B-scans of the macula")
    assert found.pop("text.e2e").startswith("damaged, or no .E2E file")
    assert not found


@pytest.mark.usefixtures("_eyepy")
def test_a_ring_scan_beside_a_volume_is_left_out(tmp_path):
    write_e2e(tmp_path / "a.e2e", [stack(slices=1), stack()], patterns=(2, 3))
    assert len(find_scans(tmp_path).scans) == 3


@pytest.mark.usefixtures("_eyepy")
def test_a_walk_that_turns_back_ends(tmp_path):
    """The next chunk is where the last record of this one ends; eyepy's own reader would go round for ever."""
    from eyepy.io.he.e2e_format import containerheader_format, folderheader_format

    data = bytearray(write_e2e(tmp_path / "a.e2e", [stack(slices=12)]))
    chunk, last = 88, 88 + 52 + 15 * folderheader_format.sizeof()
    data[last + 4 : last + 8] = (chunk - containerheader_format.sizeof()).to_bytes(4, "little")  # start
    data[last + 8 : last + 12] = bytes(4)  # size
    (tmp_path / "a.e2e").write_bytes(data)
    np.save(tmp_path / "good.npy", stack())
    found = find_scans(tmp_path)
    assert len(found.scans) + len(found.set_aside) < 3 + 12, "the records behind the turn are not found"


def test_without_eyepy_the_extra_is_named(tmp_path, monkeypatch):
    for name in ("a.vol", "b.E2E"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    for module in ("eyepy", "construct", "eyepy.io.he.vol_reader", "eyepy.io.he.e2e_format"):
        monkeypatch.setitem(sys.modules, module, None)
    found = reasons(tmp_path)
    assert set(found) == {"a.vol", "b.E2E"}
    assert all("install 'image-longitudinal[heidelberg]'" in reason for reason in found.values())


@pytest.mark.usefixtures("_eyepy")
def test_a_place_before_the_file_is_damage(tmp_path):
    write_vol(tmp_path / "odd.vol", stack())
    content = bytearray((tmp_path / "odd.vol").read_bytes())
    content[48:52] = (-5000).to_bytes(4, "little", signed=True)  # columns of the infrared image
    (tmp_path / "odd.vol").write_bytes(content)
    assert "damaged or truncated .vol file" in reasons(tmp_path)["odd.vol"]
