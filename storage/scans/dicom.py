"""Scans in DICOM files: tomographies of the eye (OPT), one B-scan or a stack of them, with the patient from the tags.

Writing in the pixels is never read. DICOM PS3.3, A.52.4 (Ophthalmic Tomography Image); needs the extra ``dicom``.
"""

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
KEEP = "PatientID"


def read_header(path: Path) -> tuple[str, int, int, int]:
    """Patient, B-scans, rows and columns of a DICOM file, without its pixels.

    The patient is a digest of PatientID and its issuer: the number in a hospital's records stays in the file.

    Raises:
        IngestError: pydicom is missing, the file is damaged, is no tomography, or names no patient.
    """
    header = _read(path, stop_before_pixels=True)
    modality = str(header.get("Modality", ""))
    if modality != MODALITY and modality not in OTHER:
        raise IngestError(
            "no tomography of the eye", expected=f"Modality {MODALITY}", got=modality,
            do="leave out photographs and other modalities",
        )  # fmt: skip
    identity = str(header.get(KEEP, "")).strip()
    if not identity:
        raise IngestError(
            "the tags name no patient", expected=KEEP, got="an empty tag or none",
            do="give every patient a pseudonym, the same in all of their files: patients must not be in two splits",
        )  # fmt: skip
    patient = digest_of("dicom-patient", str(header.get("IssuerOfPatientID", "")), identity)[:PATIENT_DIGITS]
    try:
        sizes = (int(header.get("NumberOfFrames", 1) or 1), int(header.Rows), int(header.Columns))
    except (AttributeError, TypeError, ValueError) as error:
        raise IngestError("no picture in the DICOM file", expected="Rows and Columns", got=error) from error
    return (f"dicom-{patient}", *sizes)


def read_frame(path: Path, index: int) -> NDArray[Any]:
    """B-scan ``index`` of a DICOM file: uint8, or float32 fractions of the full scale of its bits; (H, W) or (H, W, 3).

    Raises:
        IngestError: the file is damaged, or compressed in a way that needs another decoder.
    """
    header = _read(path, stop_before_pixels=True)
    try:
        from pydicom.pixels import pixel_array

        frames = int(header.get("NumberOfFrames", 1) or 1)
        pixels = np.asarray(pixel_array(path, index=index if frames > 1 else None))
        bits, signed = int(header.BitsStored), int(header.PixelRepresentation)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise IngestError("the pixels cannot be read", got=f"{type(error).__name__}: {error}") from error
    low = -(2 ** (bits - 1)) if signed else 0
    fraction = (pixels.astype(np.float64) - low) / (2**bits - 1)
    if header.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        fraction = 1 - fraction
    return np.rint(fraction * 255).astype(np.uint8) if bits <= 8 else fraction.astype(np.float32)


def _read(path: Path, **options: bool) -> Any:
    try:
        import pydicom
    except ImportError as error:
        do = "pip install 'image-longitudinal[dicom]'"
        raise IngestError("DICOM files need an optional package", expected="pydicom", do=do) from error
    try:
        return pydicom.dcmread(path, **options)
    except Exception as error:  # as above
        raise IngestError("damaged, or no DICOM file", got=f"{type(error).__name__}: {error}") from error
