"""Writing a prepared image set: in one pass, in a temporary folder that takes its name when all of it is there."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import IngestError, StorageError
from image_longitudinal.core.files import temporary_name
from image_longitudinal.storage.io.root import storage_error
from image_longitudinal.storage.scans.contact_sheet import contact_sheet
from image_longitudinal.storage.scans.duplicates import near_duplicates, perceptual_hash
from image_longitudinal.storage.scans.npy import growing_npy, to_disk
from image_longitudinal.storage.scans.prepared import (
    CONTACT_SHEET,
    FORMAT,
    MANIFEST,
    VERSION,
    PreparedImages,
    images_file,
    open_prepared,
    prepared_digest,
)
from image_longitudinal.storage.scans.scans import ReadScan, ScanFile, SetAside, assign_splits

TILE = 128  # pixels a side on the contact sheet: layers can be told apart, and 48 fit on a screen

Squares = Mapping[int, NDArray[np.uint8]]  # one image at every size: (size, size) by size


def write_prepared(
    folder: str | Path,
    scans: Iterable[ReadScan[Squares] | SetAside],
    *,
    sizes: Sequence[int],
    fractions: Mapping[str, float],
    seed: int,
    source: Mapping[str, Any],
    splits: Mapping[str, str] | None = None,
    set_aside: Iterable[SetAside] = (),
    ignored: int = 0,
    minimum: int = 1,
    compare: bool = True,
    pictures: Callable[[PreparedImages], Mapping[str, Image.Image]] | None = None,
) -> PreparedImages:
    """Write a prepared image set in one pass over ``scans``, holding one image at a time.

    Everything goes to a temporary folder beside the target, which takes its name at the very end: a run that is killed
    leaves nothing under ``folder``, and the next one clears up after it. Files with the bytes of an earlier file are
    set aside.

    Args:
        folder: where to; when a set with the same content lies there already, that one is kept.
        scans: prepared scans and set-aside files, in the order wanted (``image_longitudinal.storage.scans.scans.prepare_scan`` makes them).
        sizes: the sizes to keep, each of which every scan must hold.
        fractions, seed: the patient-wise split (``image_longitudinal.storage.scans.scans.assign_splits``).
        source: where the images came from, for the manifest; plain JSON values; not part of the digest.
        splits: the split of some patients in place of that division; all others are for training.
        set_aside, ignored: what was not even tried (``image_longitudinal.storage.scans.scans.FoundScans``).
        minimum: fewer images than this are refused.
        compare: look for near-duplicates across patients.
        pictures: makes further pictures of the finished set, by file name.

    Raises:
        IngestError: when fewer than ``minimum`` images, or fewer patients than splits, remain.
        StorageError: when it cannot be written, or other content lies there.
    """
    target = Path(folder)
    _refuse_foreign(target)
    aside = [*set_aside]
    records: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    hashes: list[NDArray[np.uint8]] = []
    largest = max(sizes)
    with _beside(target) as temporary, contextlib.ExitStack() as open_files:
        arrays = {
            size: open_files.enter_context(growing_npy(temporary / images_file(size), (size, size))) for size in sizes
        }
        for scan in scans:
            if isinstance(scan, SetAside):
                aside.append(scan)
            elif scan.sha256 in first:
                aside.append(SetAside(scan.file.name, f"same bytes as {first[scan.sha256]}"))
            else:
                first[scan.sha256] = scan.file.name
                for size, array in arrays.items():
                    array.append(scan.content[size])
                records.append(_record(scan))
                if compare:
                    hashes.append(perceptual_hash(scan.content[largest]))
        aside.sort(key=lambda item: item.name)
        _refuse_too_few(records, aside, minimum, sum(share > 0 for share in fractions.values()), source)
        open_files.close()
        patients = [record["patient"] for record in records]
        if splits is None:
            given = assign_splits(patients, fractions, seed)
        else:
            given = {patient: splits.get(patient, "train") for patient in patients}
        for record in records:
            record["split"] = given[record["patient"]]
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "sizes": list(sizes),
            "counts": {
                "images": len(records),
                "patients": len(given),
                "set_aside": len(aside),
                "ignored": ignored,
                "by_split": dict(Counter(record["split"] for record in records)),
                "by_class": dict(Counter(record["class"] for record in records)),
            },
            "split": {"fractions": dict(fractions), "seed": seed},
            "statistics": _statistics(records),
            "near_duplicates": [
                {
                    "files": [records[pair.first]["file"], records[pair.second]["file"]],
                    "patients": [records[pair.first]["patient"], records[pair.second]["patient"]],
                    "bits": pair.distance,
                }
                for pair in near_duplicates(np.stack(hashes), [record["patient"] for record in records])
            ]
            if compare
            else [],
            "source": dict(source),
            "files": {
                images_file(size): {
                    "sha256": file_sha256(temporary / images_file(size)),
                    "bytes": (temporary / images_file(size)).stat().st_size,
                }
                for size in sizes
            },
            "images": records,
            "set_aside": [{"file": item.name, "reason": item.reason} for item in aside],
        }
        manifest["digest"] = prepared_digest(manifest)
        made = PreparedImages(temporary, manifest)
        contact_sheet(made.images(_near(sizes, TILE)), made.labels, tile=TILE).save(temporary / CONTACT_SHEET)
        for name, image in (pictures(made) if pictures else {}).items():
            image.save(temporary / name)
        with open(temporary / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
            to_disk(file)
        return _publish(made, target)


def drawn_image(name: str, squares: Squares, label: str) -> ReadScan[Squares]:
    """An image that was drawn, not read from a file, as :func:`write_prepared` takes it: its own patient."""
    largest = np.ascontiguousarray(squares[max(squares)])
    digest = hashlib.sha256(largest.tobytes()).hexdigest()
    return ReadScan(ScanFile(Path(name), name, name, label), digest, largest.shape[1], largest.shape[0], squares)


def _near(sizes: Sequence[int], tile: int) -> int:
    """The smallest size that fills a tile, else the largest."""
    return min((size for size in sizes if size >= tile), default=max(sizes))


def _record(scan: ReadScan[Squares]) -> dict[str, Any]:
    return {
        "file": scan.file.name,
        "sha256": scan.sha256,
        "patient": scan.file.patient,
        "class": scan.file.label,
        "width": scan.width,
        "height": scan.height,
    }


def _statistics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sizes of the scans, and how many each patient has."""
    per_patient = Counter(Counter(record["patient"] for record in records).values())
    by_size = Counter(f"{record['width']}x{record['height']}" for record in records)
    patients = {label: len({r["patient"] for r in records if r["class"] == label}) for label in _labels(records)}
    return {
        "by_size": dict(by_size.most_common()),
        "patients_by_class": patients,
        "patients_by_number_of_images": {str(count): per_patient[count] for count in sorted(per_patient)},
    }


def _labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({record["class"] for record in records})


def _refuse_foreign(target: Path) -> None:
    try:
        taken = target.exists() and not (target / MANIFEST).exists() and (target.is_file() or any(target.iterdir()))
    except OSError as error:
        raise storage_error("cannot look at the folder for prepared images", str(target), error) from error
    if taken:
        raise StorageError(
            "something else is in the place of the prepared images",
            where=target,
            expected="no folder, an empty one or prepared images",
            do="choose another folder",
        )


def _refuse_too_few(
    records: list[dict[str, Any]], aside: list[SetAside], minimum: int, n_splits: int, source: Mapping[str, Any]
) -> None:
    patients = len({record["patient"] for record in records})
    if len(records) >= max(1, minimum) and patients >= n_splits:
        return
    reasons = Counter(item.reason.split(":")[0] for item in aside).most_common(3)
    told = ", ".join(f"{count} x {reason}" for reason, count in reasons) or "nothing"
    raise IngestError(
        "too few usable scans",
        where=source.get("folder"),
        expected=f"at least {max(1, minimum)} images of {n_splits} patients",
        got=f"{len(records)} of {patients}; set aside: {told}",
        do="add scans, or see the reasons",
    )


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``, locked while in use and removed afterwards unless it was moved.

    Unlocked ones of the same target are what killed runs left: they are removed first.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            with contextlib.suppress(OSError), _locked(stale):
                shutil.rmtree(stale, ignore_errors=True)
        temporary = target.parent / temporary_name(target.name)
        temporary.mkdir()
        try:
            with _locked(temporary):
                yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise storage_error("cannot write the prepared images", str(target), error) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the system lets go when this process ends; OSError when another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _publish(made: PreparedImages, target: Path) -> PreparedImages:
    """Give the finished folder its name, or keep an equal one that has it."""
    if (target / MANIFEST).exists():
        there = open_prepared(target)
        if there.digest != made.digest:
            raise StorageError(
                "other prepared images are here already",
                where=target,
                expected=f"digest {made.digest}",
                got=there.digest,
                do="choose another folder, or delete this one",
            )
        return there
    os.replace(made.folder, target)
    return PreparedImages(target, made.manifest)
