"""What both kinds of Heidelberg's exports share: eyepy, which knows the formats; errors; bytes; patients' names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import IngestError

PATIENT_DIGITS = 16
NOBODY = frozenset({"", "unknown"})  # what exports without a patient's number hold
CIRCLE = 2  # the scan pattern of a ring around the optic disc, which shows no macula


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever ends the body into an error that says that eyepy is missing, or that the file is damaged."""
    try:
        yield
    except (IngestError, OSError):
        raise
    except ModuleNotFoundError as error:
        do = "pip install 'image-longitudinal[heidelberg]', or export DICOM or PNG instead"
        raise IngestError(f"{what} files need an optional package", expected="eyepy", do=do) from error
    except Exception as error:  # bytes of damaged files raise nearly anything; a message may hold a patient's name
        raise IngestError(f"damaged, or no {what} file", got=type(error).__name__) from error


def pseudonym(identity: str) -> str:
    """A digest of a patient's number, which stays in the file.

    Raises:
        IngestError: there is none.
    """
    name = identity.strip("\0 ")
    if name.lower() in NOBODY:
        raise IngestError(
            "the file names no patient", expected="a patient ID", got=repr(name),
            do="give every patient a pseudonym, the same in all of their files: patients must not be in two splits",
        )  # fmt: skip
    return f"heidelberg-{digest_of('heidelberg-patient', name)[:PATIENT_DIGITS]}"


def exactly(file: BinaryIO, start: int, count: int, what: str) -> bytes:
    """``count`` bytes of a file of the kind ``what``, from ``start``, which is what the file itself says.

    Raises:
        IngestError: the file does not have them.
    """
    data = b""
    if start >= 0:
        file.seek(start)
        data = file.read(count)
    if len(data) != count:
        expected = f"{count} bytes from {start}"
        raise IngestError(f"damaged or truncated {what} file", expected=expected, got=len(data))
    return data
