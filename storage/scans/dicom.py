"""Scans in DICOM files: tomographies of the eye (OPT), one B-scan or a stack of them, with the patient from the tags.

Writing in the pixels is never read. DICOM PS3.3, A.52.4 (Ophthalmic Tomography Image); needs the extra ``dicom``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import IngestError

SUFFIXES = frozenset({".dcm", ".dicom"})
MODALITY = "OPT"  # ophthalmic tomography; OP is photography of the fundus
OTHER = frozenset({"OT", "SC", ""})  # other, secondary capture, nothing said: looked at like any picture
PATIENT_DIGITS = 16
MAX_BITS = 32


@dataclass(frozen=True)
class _Tags:
    """What the tags of a file say of its patient and pixels."""

    modality: str
    patient: str
    issuer: str  # of the patient's identity
    frames: int
    rows: int
    columns: int
    bits: int  # stored, of each pixel
    signed: bool
    photometric: str


def read_header(path: Path) -> tuple[str, int, int, int]:
    """Patient, B-scans, rows and columns of a DICOM file, without its pixels.

    The patient is a digest of PatientID and its issuer: the number in a hospital's records stays in the file.

    Raises:
        IngestError: pydicom is missing, the file is damaged, is no tomography, or names no patient.
    """
    tags = _read_tags(path)
    if tags.modality != MODALITY and tags.modality not in OTHER:
        raise IngestError(
            "no tomography of the eye", expected=f"Modality {MODALITY}", got=tags.modality,
            do="leave out photographs and other modalities",
        )  # fmt: skip
    if not tags.patient:
        raise IngestError(
            "the tags name no patient", expected="PatientID", got="an empty tag or none",
            do="give every patient a pseudonym, the same in all of their files: patients must not be in two splits",
        )  # fmt: skip
    patient = digest_of("dicom-patient", tags.issuer, tags.patient)[:PATIENT_DIGITS]
    return f"dicom-{patient}", tags.frames, tags.rows, tags.columns


def read_frame(path: Path, index: int) -> NDArray[Any]:
    """B-scan ``index`` of a DICOM file: uint8, or float32 fractions of the full scale of its bits; (H, W) or (H, W, 3).

    Raises:
        IngestError: the file is damaged, or compressed in a way that needs another decoder.
    """
    tags = _read_tags(path)
    try:
        from pydicom.config import disable_value_validation
        from pydicom.pixels import pixel_array

        with disable_value_validation():  # see below
            pixels = np.asarray(pixel_array(path, index=index if tags.frames > 1 else None))
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise IngestError("the pixels cannot be read", got=f"{type(error).__name__}: {error}") from error
    low = -(2 ** (tags.bits - 1)) if tags.signed else 0
    fraction = (pixels.astype(np.float64) - low) / (2**tags.bits - 1)
    if tags.photometric == "MONOCHROME1":  # 0 is white
        fraction = 1 - fraction
    return np.rint(fraction * 255).astype(np.uint8) if tags.bits <= 8 else fraction.astype(np.float32)


def _read_tags(path: Path) -> _Tags:
    try:
        import pydicom
        from pydicom.config import disable_value_validation
        from pydicom.filereader import read_file_meta_info
    except ImportError as error:
        do = "pip install 'image-longitudinal[dicom]'"
        raise IngestError("DICOM files need an optional package", expected="pydicom", do=do) from error
    with disable_value_validation():  # its warnings print values of tags, such as the patient's name
        try:
            syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
            deflated = syntax == pydicom.uid.DeflatedExplicitVRLittleEndian
            header = None if deflated else pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # damaged headers raise nearly anything
            raise IngestError("damaged, or no DICOM file", got=f"{type(error).__name__}: {error}") from error
        if header is None:  # its tags would be unpacked in memory, whatever their size
            do = "save it without deflation, such as by dcmconv +te of DCMTK"
            raise IngestError("the whole file is deflated", expected="another transfer syntax", got=syntax, do=do)
        try:
            tags = _tags(header)
        except Exception as error:  # a tag is read when it is asked for
            got = f"{type(error).__name__}: {error}"
            raise IngestError("no picture in the DICOM file", expected="the tags of one", got=got) from error
    if not 1 <= tags.bits <= MAX_BITS:
        raise IngestError("pixels of so many bits are not read", expected=f"1 to {MAX_BITS} bits", got=tags.bits)
    return tags


def _tags(header: Any) -> _Tags:
    return _Tags(
        modality=str(header.get("Modality", "")),
        patient=str(header.get("PatientID", "")).strip(),
        issuer=str(header.get("IssuerOfPatientID", "")),
        frames=int(header.get("NumberOfFrames", 1) or 1),
        rows=int(header.Rows),
        columns=int(header.Columns),
        bits=int(header.BitsStored),
        signed=bool(header.PixelRepresentation),
        photometric=str(header.PhotometricInterpretation),
    )
