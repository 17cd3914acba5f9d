"""BIDS (https://bids-specification.readthedocs.io, microscopy): each subject's image as ``sample-01_OCT.png``.

Outcomes and random effects are phenotypes, one file for each association level. A BIDS image needs a pixel size: it
is nominal here, because a synthetic image has no physical scale, and the README says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.png import encode_png
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.exports.export import Export, Home, Part, by_part
from image_longitudinal.tasks.exports.image_files import write_images
from image_longitudinal.tasks.exports.rows import as_text, flat_columns

VERSION = "1.10.0"
MISSING = "n/a"
SIDECAR = {"PixelSize": [1, 1], "PixelSizeUnits": "um"}  # inherited by every image: nominal
OF_PARTICIPANTS = {
    "split": "train, validation or test",
    "linked_eta": "random effect linked to the image; outcomes were made from those in phenotype/",
}


def subject_label(subject: int) -> str:
    """The label of a subject: sub-000000017."""
    return f"sub-{subject:09d}"


def _image_path(part: Part, subject: int) -> str:
    label = subject_label(subject)
    return f"{label}/micr/{label}_sample-01_OCT.png"


def _write_part(export: Export, part: Part, root: Root) -> Iterator[FileRecord]:
    return write_images(export, part, root, _image_path, encode_png)


def _table(export: Export, chosen: Callable[[str], bool], shown: Callable[[str], str]) -> Iterator[bytes]:
    """A table with a row for each subject: the columns of :func:`tasks.exports.rows.flat_columns` that are chosen."""
    header = False
    for part in export.parts:
        columns = flat_columns(export, part)
        labels = np.array([subject_label(subject) for subject in columns["id"].tolist()])
        rows: dict[str, NDArray[Any]] = {"participant_id": labels}
        rows |= {shown(name): values for name, values in columns.items() if chosen(name)}
        if not header:
            yield ("\t".join(rows) + "\n").encode()
            header = True
        yield as_text(rows, "\t", MISSING).encode()


def _samples(export: Export) -> Iterator[bytes]:
    yield b"sample_id\tparticipant_id\tsample_type\n"
    for part in export.parts:
        lines = (f"sample-01\t{subject_label(subject)}\ttissue\n" for subject in range(part.start, part.stop))
        yield "".join(lines).encode()


def _close(export: Export, root: Root) -> Iterator[FileRecord]:
    manifest, suffixes = export.dataset.manifest, [f"_rho2-{level_name(level)}" for level in export.levels]

    def of_levels(name: str) -> bool:
        return any(f"{suffix}_" in f"{name}_" for suffix in suffixes)

    described = {
        "Name": manifest.name, "BIDSVersion": VERSION, "DatasetType": "raw", "License": manifest.licence,
        "GeneratedBy": [{"Name": "image-longitudinal"}],
    }  # fmt: skip
    yield root.write_bytes("dataset_description.json", _json(described))
    yield root.write_bytes("README", _readme(export).encode())
    yield root.write_bytes("OCT.json", _json(SIDECAR))
    yield root.write_bytes(".bidsignore", b".export/\n")
    yield root.write("samples.tsv", _samples(export))
    yield root.write("participants.tsv", _table(export, lambda name: name != "id" and not of_levels(name), str))
    yield root.write_bytes("participants.json", _json({k: {"Description": v} for k, v in OF_PARTICIPANTS.items()}))
    for suffix in suffixes:
        name = f"phenotype/outcomes{suffix.replace('_', '-').replace('.', 'p')}"
        yield root.write(
            f"{name}.tsv",
            _table(export, lambda one, own=suffix: f"{own}_" in f"{one}_",  # type: ignore[misc]
                   lambda one, own=suffix: one.replace(own, "")),  # type: ignore[misc]
        )  # fmt: skip
        meaning = {
            "MeasurementToolMetadata": {"Description": f"synthetic outcomes at association level {suffix[6:]}"},
            "used_eta": {"Description": "random effects that the outcomes were made from"},
            "dv": {"Description": "outcome at a time", "Units": manifest.units.get("dv", "1")},
        }  # fmt: skip
        yield root.write_bytes(f"{name}.json", _json(meaning))


def _readme(export: Export) -> str:
    manifest = export.dataset.manifest
    return (
        f"{manifest.name}: synthetic images paired with longitudinal outcomes. No record describes a real person.\n"
        f"Identity {manifest.identity}. Splits are in participants.tsv, outcomes in phenotype/.\n"
        "Pixel sizes are nominal: the images are synthetic and have no physical scale.\n"
    )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


HOME = Home("bids", by_part(_write_part), _close, "check it with the BIDS validator")
