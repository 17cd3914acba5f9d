"""Stacks of B-scans in NumPy and DICOM files, and what is said of files that only other packages read."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.core.errors import IngestError
from image_longitudinal.storage.scans.scan_files import ReadScan, SetAside, find_scans, listed_scan, read_scan
from image_longitudinal.storage.scans.volumes import read_slice

TOMOGRAPHY, PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4", "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def pixels(slices=3, dtype=np.uint8, top=200):
    return np.random.default_rng(0).integers(0, top, (slices, 70, 90)).astype(dtype)


def dicom(path: Path, frames, patient="MRN 12/345", modality="OPT", photometric="MONOCHROME2", bits=8):
    """A DICOM file of frames (n, H, W), uncompressed."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = TOMOGRAPHY if modality == "OPT" else PHOTOGRAPHY
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = modality, patient, "Doe^Jane"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.BitsAllocated = 8 * frames.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    data.PixelData = frames.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    assert pydicom.dcmread(path).PatientID == patient
    return path


def test_every_b_scan_of_an_array_is_a_scan_of_the_files_patient(tmp_path):
    (tmp_path / "CNV").mkdir()
    stack = pixels()
    np.save(tmp_path / "CNV" / "eye.npy", stack)
    np.save(tmp_path / "CNV" / "CNV-77-2.npy", stack[0])
    np.save(tmp_path / "colour.npy", np.zeros((70, 90, 3), np.uint8))
    found = find_scans(tmp_path)
    names = ["CNV/CNV-77-2.npy", "CNV/eye.npy#000", "CNV/eye.npy#001", "CNV/eye.npy#002", "colour.npy"]
    assert [scan.name for scan in found.scans] == names
    assert [scan.patient for scan in found.scans] == ["77", "CNV/eye", "CNV/eye", "CNV/eye", "colour"]
    assert {scan.label for scan in found.scans[:4]} == {"CNV"}
    read = [read_scan(scan) for scan in found.scans]
    np.testing.assert_array_equal(read[2].content, stack[1])
    assert read[4].content.shape == (70, 90, 3)
    assert len({scan.sha256 for scan in read}) == 5
    again = read_scan(listed_scan(tmp_path, "CNV/eye.npy#001"))
    np.testing.assert_array_equal(again.content, stack[1])


def test_b_scans_of_a_stack_share_one_full_scale(tmp_path):
    stack = pixels(dtype=np.uint16)
    stack[2, 0, 0] = 1000  # 10 bits are used, by one B-scan alone
    np.save(tmp_path / "deep.npy", stack)
    np.testing.assert_allclose(read_slice(tmp_path / "deep.npy", 0), stack[0] / 1023, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not an array", "damaged, or no NumPy array"),
        (np.zeros((2, 3, 70, 90), np.uint8), r"the array holds no scans.*got uint8 \(2, 3, 70, 90\)"),
        (np.array([["a"]]), "the array holds no scans"),
        (np.array([None, None]), "damaged, or no NumPy array"),  # pickled: never opened
        (np.zeros((5000, 64, 64), bool), "too many B-scans in a file"),
        (np.zeros((2, 30, 90), np.uint8), "90x30: less than 64 pixels a side"),
    ],
    ids=range(6),
)
def test_what_holds_no_scans_is_set_aside_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "a.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    np.save(tmp_path / "good.npy", pixels())
    (aside,) = find_scans(tmp_path).set_aside
    assert aside.file == "a.npy"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(aside.reason)


def test_files_of_scanners_are_named_with_what_reads_them(tmp_path):
    np.save(tmp_path / "good.npy", pixels())
    (tmp_path / "c.fda").write_bytes(b"x" * 100)
    (aside,) = find_scans(tmp_path).set_aside
    assert "oct-converter" in aside.reason
    assert "numpy.save" in aside.reason


def test_dicom_frames_are_scans_of_the_patient_in_the_tags(tmp_path):
    stack = pixels()
    dicom(tmp_path / "DME" / "left.dcm", stack)
    dicom(tmp_path / "DME" / "right.dcm", stack[::-1])
    dicom(tmp_path / "DME" / "other.dcm", stack[:1], patient="another")
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans][:4] == [*(f"DME/left.dcm#00{i}" for i in range(3)), "DME/other.dcm"]
    patients = [scan.patient for scan in found.scans]
    assert len(set(patients)) == 2
    assert patients.count(patients[0]) == 6, "both eyes are of one patient"
    assert not any("345" in patient or "Doe" in patient for patient in patients), "a digest, not the number"
    np.testing.assert_array_equal(read_scan(found.scans[1]).content, stack[1])


def test_dicom_greys_are_fractions_of_their_bits_and_monochrome1_is_dark_on_bright(tmp_path):
    deep = pixels(dtype=np.uint16, top=900)
    path = dicom(tmp_path / "deep.dcm", deep, bits=12)
    np.testing.assert_allclose(read_slice(path, 2), deep[2] / 4095, atol=1e-6)
    path = dicom(tmp_path / "inverse.dcm", 255 - pixels(), photometric="MONOCHROME1")
    np.testing.assert_array_equal(read_slice(path, 1), pixels()[1])


def test_dicom_without_tomography_patient_or_pixels_is_set_aside(tmp_path):
    np.save(tmp_path / "good.npy", pixels())
    dicom(tmp_path / "fundus.dcm", pixels(), modality="OP")
    dicom(tmp_path / "nobody.dcm", pixels(), patient="")
    whole = dicom(tmp_path / "cut.dcm", pixels()).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-17000])
    (tmp_path / "text.dcm").write_text("x")
    found = find_scans(tmp_path)
    reasons = {item.file: item.reason for item in found.set_aside}
    assert reasons["fundus.dcm"].startswith("no tomography of the eye; expected Modality OPT; got OP")
    assert reasons["nobody.dcm"].startswith("the tags name no patient; expected PatientID")
    assert reasons["text.dcm"].startswith("damaged, or no DICOM file")
    cut = [read_scan(scan) for scan in found.scans if scan.name.startswith("cut.dcm")]
    assert all(isinstance(scan, SetAside) for scan in cut)
    assert all("the pixels cannot be read" in scan.reason for scan in cut)
    assert isinstance(read_scan(found.scans[-1]), ReadScan)


def test_pages_of_a_tiff_file_are_scans_of_one_patient(tmp_path):
    stack = pixels(slices=3)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "eye.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "single.tiff")
    found = find_scans(tmp_path)
    assert [scan.name for scan in found.scans] == ["eye.tif#000", "eye.tif#001", "eye.tif#002", "single.tiff"]
    assert {scan.patient for scan in found.scans[:3]} == {"eye"}
    for scan, page in zip(found.scans[:3], stack, strict=True):
        for one in (scan, listed_scan(tmp_path, scan.name)):
            read = read_scan(one)
            assert isinstance(read, ReadScan)
            np.testing.assert_array_equal(read.content, page)
    assert isinstance(read_scan(listed_scan(tmp_path, "single.tiff")), ReadScan)
    assert len({read_scan(scan).sha256 for scan in found.scans}) == 4


def test_a_smaller_page_of_a_tiff_file_is_set_aside_and_the_others_stay(tmp_path):
    pages = [Image.fromarray(page) for page in pixels(slices=2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=[pages[1].resize((80, 70)), pages[1]])
    first, thumbnail, last = (read_scan(scan) for scan in find_scans(tmp_path).scans)
    assert isinstance(first, ReadScan)
    assert isinstance(last, ReadScan)
    assert thumbnail.reason.startswith("pages of a TIFF file differ in size; expected ")


def test_damaged_tags_set_a_dicom_file_aside_and_no_value_of_a_tag_is_printed(tmp_path, recwarn, caplog):
    np.save(tmp_path / "good.npy", pixels())
    good = dicom(tmp_path / "kind.dcm", pixels(), patient="12345678").read_bytes()
    (tmp_path / "kind.dcm").write_bytes(good.replace(b"\x10\0\x20\0LO", b"\x10\0\x20\0DO"))
    (tmp_path / "bits.dcm").write_bytes(good.replace(b"\x28\0\x01\x01US\2\0\x08", b"\x28\0\x01\x01US\2\0\0"))
    (tmp_path / "uid.dcm").write_bytes(good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.Doe^Jane.1.1"))
    found = find_scans(tmp_path)
    reasons = {item.file: item.reason for item in found.set_aside}
    assert reasons["kind.dcm"].startswith("no picture in the DICOM file; expected the tags of one")
    assert reasons["bits.dcm"].startswith("pixels of so many bits are not read; expected 1 to 32 bits; got 0")
    assert {scan.path.name for scan in found.scans} == {"good.npy", "uid.dcm"}
    for scan in found.scans:
        read_scan(scan)
    assert not recwarn.list
    assert not caplog.records


def test_a_deflated_dicom_file_is_refused_before_it_is_unpacked(tmp_path):
    np.save(tmp_path / "good.npy", pixels())
    good = dicom(tmp_path / "deflated.dcm", pixels()).read_bytes()
    plain, deflated = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"
    at = good.index(plain)
    (size,) = struct.unpack("<I", good[140:144])  # of the group that names the syntax
    data = good[:140] + struct.pack("<I", size + 2) + good[144:at] + deflated + good[at + len(plain) :]
    (tmp_path / "deflated.dcm").write_bytes(data)
    (aside,) = find_scans(tmp_path).set_aside
    assert aside.reason.startswith("the whole file is deflated; expected another transfer syntax")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(IngestError, match="no scans found"):
        find_scans(tmp_path)
    np.save(tmp_path / "good.npy", pixels())
    (aside,) = find_scans(tmp_path).set_aside
    assert "install 'image-longitudinal[dicom]'" in aside.reason
